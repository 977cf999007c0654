// SPDX-License-Identifier: Apache-2.0
#include "echo.h"

#include <arpa/inet.h>
#include <string.h>

#include "pattern.h"

_Static_assert(sizeof(struct echo) == ETHER_HDR_LEN + 56, "no padding, and it fits the smallest MTU");

void echo_ask(struct echo *echo, const uint8_t source[ETH_ALEN], const uint8_t target[ETH_ALEN], uint32_t id,
	      uint16_t number)
{
	const struct message message = {.seed = id, .number = number};

	memset(echo, 0, sizeof(*echo));
	memset(echo->ethernet.ether_dhost, 0xff, ETH_ALEN);
	memcpy(echo->ethernet.ether_shost, source, ETH_ALEN);
	echo->ethernet.ether_type = htons(ECHO_ETHERTYPE);
	echo->kind = ECHO_REQUEST;
	memcpy(echo->target, target, ETH_ALEN);
	echo->id = htonl(id);
	echo->number = htons(number);
	pattern_fill(echo->pattern, ECHO_PATTERN, &message);
}

void echo_reply(struct echo *echo, const uint8_t source[ETH_ALEN])
{
	memcpy(echo->ethernet.ether_dhost, echo->ethernet.ether_shost, ETH_ALEN);
	memcpy(echo->ethernet.ether_shost, source, ETH_ALEN);
	echo->kind = ECHO_ANSWER;
}

bool echo_is_for(const struct echo *echo, const uint8_t target[ETH_ALEN])
{
	/* None has a group's address for its own: an answer to that would go to many. */
	return echo->ethernet.ether_type == htons(ECHO_ETHERTYPE) && echo->kind == ECHO_REQUEST &&
	       memcmp(echo->target, target, ETH_ALEN) == 0 && !(echo->ethernet.ether_shost[0] & 1);
}

bool echo_is_intact(const struct echo *echo)
{
	struct message found = {.seed = ntohl(echo->id)};

	return pattern_check(echo->pattern, ECHO_PATTERN, ECHO_PATTERN, &found) == VERDICT_OK &&
	       found.number == ntohs(echo->number);
}
