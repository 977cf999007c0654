/* SPDX-License-Identifier: GPL-2.0 */
/* Arithmetic of the rings: positions are free-running byte counts, `size` is a power of two.
 * Pure, of no type beyond u32 and bool, and so also compiled in user space, where it is tested.
 */
#ifndef IVD_RING_H
#define IVD_RING_H

#include "layout.h"

#ifndef __KERNEL__
#include <stdbool.h>
typedef __u32 u32;
#endif

/* What a record of a packet takes, its header and the rounding included. */
static inline u32 ivd_record_size(u32 length)
{
	u32 whole = sizeof(struct vshm_record) + length;

	return (whole + VSHM_RECORD_ALIGN - 1) & ~(VSHM_RECORD_ALIGN - 1);
}

/* With this much room a record of the length fits wherever the head is: padding is always less
 * than the record.
 */
static inline u32 ivd_worst_room(u32 length)
{
	return 2 * ivd_record_size(length) - VSHM_RECORD_ALIGN;
}

static inline u32 ivd_offset(u32 position, u32 size)
{
	return position & (size - 1);
}

static inline u32 ivd_until_end(u32 position, u32 size)
{
	return size - ivd_offset(position, size);
}

static inline u32 ivd_room(u32 head, u32 tail, u32 size)
{
	return size - (head - tail);
}

/* Bytes of padding before a record of `need` bytes, so that it does not cross the ring's end. */
static inline u32 ivd_padding(u32 head, u32 need, u32 size)
{
	u32 left = ivd_until_end(head, size);

	return need > left ? left : 0;
}

/* Has a move from `old` to `new` passed the position at which the other side wants to be rung? */
static inline bool ivd_passed(u32 position, u32 new, u32 old)
{
	return new - position - 1 < new - old;
}

/* The position that the tail passes just when `room` bytes have become free. */
static inline u32 ivd_room_position(u32 head, u32 room, u32 size)
{
	return head - size + room - 1;
}

/* A head that the producer claims; `known` is its last one, `tail` our own. */
static inline bool ivd_head_valid(u32 head, u32 known, u32 tail, u32 size)
{
	return head % VSHM_RECORD_ALIGN == 0 && head - tail <= size && head - tail >= known - tail;
}

/* A tail that the consumer claims; `known` is its last one, `head` our own. */
static inline bool ivd_tail_valid(u32 tail, u32 known, u32 head)
{
	return tail % VSHM_RECORD_ALIGN == 0 && head - tail <= head - known;
}

/* A record at `tail` of a ring that holds `held` bytes from there: does what it says of its
 * length hold?
 */
static inline bool ivd_packet_valid(u32 length, u32 tail, u32 held, u32 size)
{
	u32 need;

	if (length < VSHM_PACKET_MIN || length > VSHM_PACKET_MAX)
		return false;
	need = ivd_record_size(length);
	return need <= held && need <= ivd_until_end(tail, size);
}

static inline bool ivd_padding_valid(u32 length, u32 tail, u32 held, u32 size)
{
	u32 left = ivd_until_end(tail, size);

	return left <= held && length == left - (u32)sizeof(struct vshm_record);
}

#endif /* IVD_RING_H */
