// SPDX-License-Identifier: Apache-2.0
#include "pattern.h"

#include <arpa/inet.h>
#include <string.h>

#define MAGIC 0x76706331u /* "vpc1" */

struct header {
	uint32_t magic;
	uint32_t seed;
	uint32_t test;
	uint32_t size;
	uint32_t number;
};

_Static_assert(sizeof(struct header) == PATTERN_HEADER, "the header has no padding");

/* splitmix64: each position's value is its own, without a state to carry along. */
static uint64_t mix(uint64_t value)
{
	value += 0x9e3779b97f4a7c15u;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

static uint64_t base_of(const struct message *message)
{
	return mix(((uint64_t)message->seed << 32 | message->test) ^ mix(message->number));
}

/* Walks the pattern from a position on; eight bytes at a time are worked out. */
struct walk {
	uint64_t base, word;
	size_t position;
};

static struct walk walk_from(const struct message *message, size_t position)
{
	uint64_t base = base_of(message);

	return (struct walk){.base = base, .word = mix(base + position / 8), .position = position};
}

static uint8_t walk_next(struct walk *walk)
{
	uint8_t byte = (uint8_t)(walk->word >> (walk->position % 8 * 8));

	if (++walk->position % 8 == 0)
		walk->word = mix(walk->base + walk->position / 8);
	return byte;
}

/* A short message has its number in its first byte; hidden by the seed, so that a zero is not always right. */
static uint8_t short_mask(const struct message *message)
{
	return (uint8_t)mix((uint64_t)message->seed << 32 | message->test);
}

void pattern_fill(uint8_t *data, size_t size, const struct message *message)
{
	const struct header header = {
		htonl(MAGIC), htonl(message->seed), htonl(message->test), htonl((uint32_t)size), htonl(message->number),
	};
	size_t position = 0;
	struct walk walk;

	if (size >= PATTERN_WITH_HEADER) {
		memcpy(data, &header, sizeof(header));
		position = sizeof(header);
	} else if (size > 0) {
		data[position++] = (uint8_t)message->number ^ short_mask(message);
	}
	walk = walk_from(message, position);
	for (; position < size; position++)
		data[position] = walk_next(&walk);
}

static bool holds_pattern(const uint8_t *data, size_t position, size_t size, const struct message *message)
{
	struct walk walk = walk_from(message, position);

	for (; position < size; position++)
		if (data[position] != walk_next(&walk))
			return false;
	return true;
}

static enum verdict check_short(const uint8_t *data, size_t length, size_t size, struct message *found)
{
	if (length != size || size == 0)
		return VERDICT_CORRUPT;
	found->number = data[0] ^ short_mask(found);
	return holds_pattern(data, 1, size, found) ? VERDICT_OK : VERDICT_CORRUPT;
}

bool pattern_peek(const uint8_t *data, size_t length, struct message *said)
{
	struct header header;

	if (length < sizeof(header))
		return false;
	memcpy(&header, data, sizeof(header));
	said->seed = ntohl(header.seed);
	said->test = ntohl(header.test);
	said->number = ntohl(header.number);
	return ntohl(header.magic) == MAGIC;
}

enum verdict pattern_check(const uint8_t *data, size_t length, size_t size, struct message *found)
{
	struct header header;

	if (size < PATTERN_WITH_HEADER)
		return check_short(data, length, size, found);
	if (length < PATTERN_HEADER)
		return VERDICT_CORRUPT;
	memcpy(&header, data, sizeof(header));
	if (ntohl(header.magic) == MAGIC && ntohl(header.seed) != found->seed)
		return VERDICT_FOREIGN;
	if (ntohl(header.magic) != MAGIC || ntohl(header.test) != found->test || ntohl(header.size) != size ||
	    length != size)
		return VERDICT_CORRUPT;
	found->number = ntohl(header.number);
	return holds_pattern(data, PATTERN_HEADER, size, found) ? VERDICT_OK : VERDICT_CORRUPT;
}
