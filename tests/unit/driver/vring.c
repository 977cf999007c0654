// SPDX-License-Identifier: GPL-2.0
/* vring.h as a library, for the property tests: one memory, one ring, one chain. */
#include "vhost/vring.h"

static struct vhp_memory memory;
static struct vhp_ring ring;
static struct vhp_chain chain;
static struct vhp_marks marks;

u32 span_valid(u64 offset, u64 length, u64 size) { return vhp_span_valid(offset, length, size); }
u32 ring_valid(u64 desc, u64 avail, u64 used, u64 entries, u64 size)
{
	return vhp_ring_valid(desc, avail, used, entries, size);
}

u32 region_valid(u64 address, u64 size, u64 offset, u64 whole)
{
	const struct vhp_region region = { .address = address, .size = size, .offset = offset };

	return vhp_region_valid(&region, whole);
}

/* Forgets all regions. */
void set_memory(u8 *base, u64 size)
{
	memory = (struct vhp_memory){ .base = base, .size = size };
}

void add_region(u64 address, u64 size, u64 offset)
{
	memory.regions[memory.count++] =
		(struct vhp_region){ .address = address, .size = size, .offset = offset };
}

void set_ring(u64 desc, u64 avail, u64 used, u64 entries, u64 event_idx, u64 indirect)
{
	ring = (struct vhp_ring){
		.desc = (void *)(memory.base + desc), .avail = (void *)(memory.base + avail),
		.used = (void *)(memory.base + used), .size = entries, .event_idx = event_idx, .indirect = indirect,
	};
	vhp_continue(&ring);
}

/* Offset of an address in the memory, or -1; `length` as vhp_translate() has it. */
u64 translate(u64 first, u64 address, u32 *length)
{
	u32 region = first;
	u8 *at = vhp_translate(&memory, &region, address, length);

	return at ? (u64)(at - memory.base) : ~0ull;
}

u32 walk(u64 head, u64 write)
{
	chain.count = 0;
	chain.bytes = 0;
	return vhp_walk(&memory, &ring, head, write ? VRING_DESC_F_WRITE : 0, &chain);
}

u32 pieces(void) { return chain.count; }
u32 bytes(void) { return chain.bytes; }
u64 piece_at(u64 piece) { return chain.pieces[piece].at - memory.base; }
u32 piece_length(u64 piece) { return chain.pieces[piece].length; }

u32 look(void) { return vhp_look(&ring); }
u32 waiting(void) { return vhp_waiting(&ring); }
u32 head(u64 ahead) { return vhp_head(&ring, ahead); }
u32 publish(void) { return vhp_publish(&ring); }
u32 wants_ring(void) { return vhp_wants_ring(&ring); }
void ask(u64 position) { vhp_ask(&ring, position); }
void quiet(void) { vhp_quiet(&ring); }
u32 next(void) { return ring.next; }
u32 is_unheard(void) { return vhp_is_unheard(&ring); }

void set_marks(u64 size, u64 heads) { vhp_set_marks(&marks, size, heads); }
void lower_marks(u64 waiting) { vhp_lower_marks(&marks, waiting); }
void raise_marks(u64 waiting) { vhp_raise_marks(&marks, waiting); }
u32 stop_mark(void) { return marks.stop; }
u32 wake_mark(void) { return marks.wake; }

void complete(u64 head, u64 written)
{
	vhp_complete(&ring, 0, head, written);
	ring.next++;
}
