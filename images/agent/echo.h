/* SPDX-License-Identifier: Apache-2.0 */
/* Echoes between the agents, in frames of their own type: a guest that answers no ICMP, whose firewall lets nothing in, or
 * whose interface is the port of a bond answers them all the same. Its daemon does, and a probe asks.
 */
#ifndef VPCTL_ECHO_H
#define VPCTL_ECHO_H

#include <net/ethernet.h>
#include <stdbool.h>
#include <stdint.h>

/* The second EtherType that IEEE 802 sets aside for local experiments; a check's frames have the first. */
#define ECHO_ETHERTYPE 0x88b6

#define ECHO_PATTERN 40

enum echo_kind { ECHO_REQUEST = 1, ECHO_ANSWER = 2 };

/* As it is on the wire, big-endian; 56 bytes behind the Ethernet header, so that it fits the smallest MTU, 68. */
struct echo {
	struct ether_header ethernet;
	uint8_t kind;
	uint8_t zero;
	/* The MAC that the link's table gives the end that is asked, whatever it has now: bridges flood a broadcast, and
	 * none but that end may answer.
	 */
	uint8_t target[ETH_ALEN];
	uint32_t id;
	uint16_t number;
	uint16_t unused;
	/* pattern_fill() of the number, with the id as the seed; comes back as it came. */
	uint8_t pattern[ECHO_PATTERN];
} __attribute__((packed));

/* Fills in a request; sent to all, since the peer's MAC may be another one by now. */
void echo_ask(struct echo *echo, const uint8_t source[ETH_ALEN], const uint8_t target[ETH_ALEN], uint32_t id,
	      uint16_t number);
/* Makes a request's answer of it. */
void echo_reply(struct echo *echo, const uint8_t source[ETH_ALEN]);
/* Whether a whole frame is a request to this end. */
bool echo_is_for(const struct echo *echo, const uint8_t target[ETH_ALEN]);
/* Whether its contents are what was sent as that number of that id. */
bool echo_is_intact(const struct echo *echo);

#endif
