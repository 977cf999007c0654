/* SPDX-License-Identifier: Apache-2.0 */
/* What a test message holds: a header that says which message it is, where there is room for one, and at every other
 * byte a value that depends on seed, test, number and position, so that no mix-up of messages or of parts of one goes
 * unseen. Pure.
 */
#ifndef VPCTL_PATTERN_H
#define VPCTL_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the header: magic, seed, test, size, number; each 32 bits, big-endian. */
#define PATTERN_HEADER 20

/* A message from this size on has a header: behind it there is room for enough pattern to prove its number. */
#define PATTERN_WITH_HEADER 28

struct message {
	uint32_t seed;
	uint32_t test;
	uint32_t number;
};

enum verdict {
	VERDICT_OK,
	/* A message of ours whose contents are not what was sent. */
	VERDICT_CORRUPT,
	/* Another program's, or of another run. */
	VERDICT_FOREIGN,
};

/* Writes a message of `size` bytes. One without a header says its number in its first byte, the rest is pattern. */
void pattern_fill(uint8_t *data, size_t size, const struct message *message);

/* Reads what the header says, unproven. False: there is no header. */
bool pattern_peek(const uint8_t *data, size_t length, struct message *said);

/* Compares every byte. `found` holds the seed and the test that are awaited and gets the number; `size` is the length
 * that the test's messages have, `length` that of this one.
 */
enum verdict pattern_check(const uint8_t *data, size_t length, size_t size, struct message *found);

#endif
