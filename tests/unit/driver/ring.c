// SPDX-License-Identifier: GPL-2.0
/* ring.h as a library, for the property tests. */
#include "shm/ring.h"

u32 record_size(u32 length) { return ivd_record_size(length); }
u32 worst_room(u32 length) { return ivd_worst_room(length); }
u32 offset(u32 position, u32 size) { return ivd_offset(position, size); }
u32 until_end(u32 position, u32 size) { return ivd_until_end(position, size); }
u32 room(u32 head, u32 tail, u32 size) { return ivd_room(head, tail, size); }
u32 padding(u32 head, u32 need, u32 size) { return ivd_padding(head, need, size); }
u32 passed(u32 position, u32 new, u32 old) { return ivd_passed(position, new, old); }
u32 room_position(u32 head, u32 room, u32 size) { return ivd_room_position(head, room, size); }
u32 head_valid(u32 head, u32 known, u32 tail, u32 size) { return ivd_head_valid(head, known, tail, size); }
u32 tail_valid(u32 tail, u32 known, u32 head) { return ivd_tail_valid(tail, known, head); }
u32 packet_valid(u32 length, u32 tail, u32 held, u32 size) { return ivd_packet_valid(length, tail, held, size); }
u32 padding_valid(u32 length, u32 tail, u32 held, u32 size) { return ivd_padding_valid(length, tail, held, size); }
