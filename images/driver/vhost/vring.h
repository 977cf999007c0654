/* SPDX-License-Identifier: GPL-2.0 */
/* The device's side of split virtqueues whose memory is the peer's: where things lie, whether a
 * chain can be believed, and who wants to be interrupted. Everything that is read there is read
 * once, bounded, and used from the copy. Compiles in user space too, where it is tested.
 *
 * Completions are in order and one for each head, so a single position serves both rings: where
 * the next head is taken from the available ring is where its completion goes in the used ring.
 */
#ifndef VHP_VRING_H
#define VHP_VRING_H

#include <linux/virtio_ring.h>

#include "layout.h"

#ifdef __KERNEL__
#include <asm/barrier.h>
#include <asm/byteorder.h>
#include <linux/compiler.h>
#include <linux/log2.h>
#else
#include "user.h"
#endif

/* More than any network driver uses for a packet, and what other back-ends allow. */
#define VHP_PIECES_MAX	1024u

/* What a peer can write that cannot be. */
enum vhp_fault {
	VHP_GOOD,
	VHP_BAD_AVAIL,		/* an available index further ahead than the ring is long */
	VHP_BAD_CHAIN,		/* a descriptor outside of its table, or too many of them */
	VHP_BAD_INDIRECT,	/* an indirect table that cannot be one */
	VHP_BAD_ADDRESS,	/* memory of no bytes, or outside of the regions */
	VHP_BAD_DIRECTION,	/* to be read where it should be written, or the other way round */
	VHP_FOREIGN_USED,	/* a used index that this side did not write */
	VHP_FAULTS,
};

struct vhp_region {
	u64 address;		/* as the peer sees it */
	u64 size;
	u64 offset;		/* in BAR2 */
};

/* The peer's memory. Regions have been checked. */
struct vhp_memory {
	u8 *base;
	u64 size;
	u32 count;
	struct vhp_region regions[VSHM_PEER_REGIONS_MAX];
};

struct vhp_ring {
	const struct vring_desc *desc;
	const struct vring_avail *avail;
	struct vring_used *used;
	u32 size;
	u32 region;		/* where the last address was; the next one is too, as a rule */
	u16 next;		/* the position that is to be taken and completed next */
	u16 seen;		/* the available index, as last seen and checked */
	u16 published;		/* the used index, as last published */
	u16 rung;		/* the same, at the last look at the peer's wish */
	u16 heard_avail;	/* the available index at the last vhp_is_unheard(), ... */
	u16 heard_used;		/* ... the used index that was published by then, ... */
	u16 repeated;		/* ... and the one for which it last said yes */
	bool event_idx;
	bool indirect;
};

/* With how many of the peer's buffers the transmit queue stops and starts again. They are lowered
 * for a peer that leaves the queue stopped for long, and raised as it is seen to post more.
 */
struct vhp_marks {
	u32 stop;		/* with fewer than this the queue stops, ... */
	u32 wake;		/* ... and starts again with so many */
	u32 full_stop;		/* both, as they are at first */
	u32 full_wake;
};

/* A chain as it was read, or several that serve as one. */
struct vhp_piece {
	u8 *at;
	u32 length;
};

struct vhp_chain {
	u32 count;
	u32 bytes;
	struct vhp_piece pieces[VHP_PIECES_MAX];
};

/* One descriptor, read once. */
struct vhp_desc {
	u64 address;
	u32 length;
	u16 flags;
	u16 next;
};

#define vhp_le16(field)	le16_to_cpu((__force __le16)READ_ONCE(field))
#define vhp_le32(field)	le32_to_cpu((__force __le32)READ_ONCE(field))
#define vhp_le64(field)	le64_to_cpu((__force __le64)READ_ONCE(field))

static inline bool vhp_span_valid(u64 offset, u64 length, u64 size)
{
	return offset <= size && length <= size - offset;
}

static inline bool vhp_region_valid(const struct vhp_region *region, u64 size)
{
	return region->size && region->address + (region->size - 1) >= region->address &&
	       vhp_span_valid(region->offset, region->size, size);
}

/* Do the three parts of a ring lie in BAR2, aligned as the standard wants them? */
static inline bool vhp_ring_valid(u64 desc, u64 avail, u64 used, u32 entries, u64 size)
{
	if (!entries || entries & (entries - 1) || entries > VSHM_PEER_RING_MAX)
		return false;
	if (desc % 16 || avail % 2 || used % 4)
		return false;
	/* Both rings are followed by the other side's event index. */
	return vhp_span_valid(desc, 16ULL * entries, size) &&
	       vhp_span_valid(avail, 4 + 2ULL * entries + 2, size) &&
	       vhp_span_valid(used, 4 + 8ULL * entries + 2, size);
}

static inline bool vhp_find_region(const struct vhp_memory *memory, u64 address, u32 *found)
{
	u32 i;

	for (i = 0; i < memory->count; i++)
		if (address - memory->regions[i].address < memory->regions[i].size) {
			*found = i;
			return true;
		}
	return false;
}

/* Where the peer's address lies, or NULL; `length` becomes how much follows there at once. */
static inline u8 *vhp_translate(const struct vhp_memory *memory, u32 *region, u64 address,
				u32 *length)
{
	u64 offset = address - memory->regions[*region].address;

	if (unlikely(offset >= memory->regions[*region].size)) {
		if (!vhp_find_region(memory, address, region))
			return NULL;
		offset = address - memory->regions[*region].address;
	}
	if (unlikely(*length > memory->regions[*region].size - offset))
		*length = memory->regions[*region].size - offset;
	return memory->base + memory->regions[*region].offset + offset;
}

static inline struct vhp_desc vhp_read_desc(const struct vring_desc *shared)
{
	return (struct vhp_desc){
		.address = vhp_le64(shared->addr),
		.length = vhp_le32(shared->len),
		.flags = vhp_le16(shared->flags),
		.next = vhp_le16(shared->next),
	};
}

/* Adds a descriptor's memory: one piece, or more where regions follow each other. */
static inline enum vhp_fault vhp_append(const struct vhp_memory *memory, struct vhp_ring *ring,
					u64 address, u32 left, struct vhp_chain *chain)
{
	if (!left)
		return VHP_BAD_ADDRESS;
	if (left > ~chain->bytes)
		return VHP_BAD_CHAIN;
	chain->bytes += left;
	while (left) {
		u32 length = left;
		u8 *at = vhp_translate(memory, &ring->region, address, &length);

		if (!at)
			return VHP_BAD_ADDRESS;
		if (chain->count == VHP_PIECES_MAX)
			return VHP_BAD_CHAIN;
		chain->pieces[chain->count].at = at;
		chain->pieces[chain->count].length = length;
		chain->count++;
		address += length;
		left -= length;
	}
	return VHP_GOOD;
}

/* An indirect table must be negotiated, alone in its descriptor, whole, and in one region. */
static inline const struct vring_desc *vhp_indirect(const struct vhp_memory *memory,
						    struct vhp_ring *ring,
						    const struct vhp_desc *desc)
{
	u32 length = desc->length;
	u8 *at;

	if (!ring->indirect || desc->flags & VRING_DESC_F_NEXT)
		return NULL;
	if (!length || length % sizeof(struct vring_desc) || desc->address % 8)
		return NULL;
	at = vhp_translate(memory, &ring->region, desc->address, &length);
	return at && length == desc->length ? (const struct vring_desc *)at : NULL;
}

/* Reads the chain that begins at `head`, and adds its memory to `chain`. `direction` is what
 * VRING_DESC_F_WRITE must be in all of it.
 */
static inline enum vhp_fault vhp_walk(const struct vhp_memory *memory, struct vhp_ring *ring,
				      u32 head, u16 direction, struct vhp_chain *chain)
{
	const struct vring_desc *table = ring->desc;
	u32 size = ring->size;
	u32 left = size;	/* a chain is no longer than its table */
	u32 at = head;

	while (at < size && left--) {
		const struct vhp_desc desc = vhp_read_desc(&table[at]);
		enum vhp_fault fault;

		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (table != ring->desc)
				return VHP_BAD_INDIRECT;
			table = vhp_indirect(memory, ring, &desc);
			if (!table)
				return VHP_BAD_INDIRECT;
			size = desc.length / sizeof(*table);
			left = size;
			at = 0;
			continue;
		}
		if ((desc.flags & VRING_DESC_F_WRITE) != direction)
			return VHP_BAD_DIRECTION;
		fault = vhp_append(memory, ring, desc.address, desc.length, chain);
		if (fault)
			return fault;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return VHP_GOOD;
		at = desc.next;
	}
	return VHP_BAD_CHAIN;
}

/* Heads that are known to wait. */
static inline u32 vhp_waiting(const struct vhp_ring *ring)
{
	return (u16)(ring->seen - ring->next);
}

/* Looks for more of them. False: the index is invalid. */
static inline bool vhp_look(struct vhp_ring *ring)
{
	/* pairs with the peer's release of the index, after its descriptors */
	u16 seen = le16_to_cpu((__force __le16)virt_load_acquire(&ring->avail->idx));

	if ((u16)(seen - ring->next) > ring->size)
		return false;
	ring->seen = seen;
	return true;
}

/* The head that waits `ahead` positions after the next one. It is not checked: vhp_walk() does. */
static inline u32 vhp_head(const struct vhp_ring *ring, u32 ahead)
{
	return vhp_le16(ring->avail->ring[(ring->next + ahead) & (ring->size - 1)]);
}

/* Writes a completion, which the peer does not see yet. */
static inline void vhp_complete(struct vhp_ring *ring, u32 ahead, u32 head, u32 written)
{
	struct vring_used_elem *used = &ring->used->ring[(ring->next + ahead) & (ring->size - 1)];

	WRITE_ONCE(used->id, (__force __virtio32)cpu_to_le32(head));
	WRITE_ONCE(used->len, (__force __virtio32)cpu_to_le32(written));
}

/* Shows the peer what is completed. False: the index there is not the one that we wrote. */
static inline bool vhp_publish(struct vhp_ring *ring)
{
	if (ring->published == ring->next)
		return true;
	if (vhp_le16(ring->used->idx) != ring->published)
		return false;
	/* pairs with the peer's acquire of the index */
	virt_store_release(&ring->used->idx, (__force __virtio16)cpu_to_le16(ring->next));
	ring->published = ring->next;
	return true;
}

/* After something was published: does the peer want to be interrupted for it? */
static inline bool vhp_wants_ring(struct vhp_ring *ring)
{
	u16 old = ring->rung;

	/* pairs with the peer's barrier between its wish and its look at the index */
	virt_mb();
	ring->rung = ring->published;
	if (ring->event_idx)
		return vring_need_event(vhp_le16(ring->avail->ring[ring->size]), ring->published,
					old);
	return !(vhp_le16(ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

/* Now and then, at the same intervals: has the peer left alone, from the last time on, completions
 * that it wanted to be interrupted for? Then that interrupt got lost, and as a wish is fulfilled
 * once, nothing else would ever repeat it.
 */
static inline bool vhp_is_unheard(struct vhp_ring *ring)
{
	u16 avail = vhp_le16(ring->avail->idx);
	bool moved = avail != ring->heard_avail;
	u16 used = ring->heard_used;

	ring->heard_avail = avail;
	ring->heard_used = ring->published;
	if (moved)
		return false;
	if (ring->event_idx)
		return vring_need_event(vhp_le16(ring->avail->ring[ring->size]), used,
					used - ring->size);
	/* Without event indices it does not say how far it has come: once for each position. */
	if (ring->repeated == used || vhp_le16(ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT)
		return false;
	ring->repeated = used;
	return true;
}

/* Asks the peer to kick when it makes the head at `position` available. The caller looks at the
 * ring once more before it relies on that.
 */
static inline void vhp_ask(struct vhp_ring *ring, u16 position)
{
	if (ring->event_idx)
		WRITE_ONCE(*(__virtio16 *)&ring->used->ring[ring->size],
			   (__force __virtio16)cpu_to_le16(position));
	else
		WRITE_ONCE(ring->used->flags, (__virtio16)0);
	/* pairs with the peer's barrier between its index and its look at our wish */
	virt_mb();
}

/* No kicks, please. With event indices this needs nothing: a wish is fulfilled once. */
static inline void vhp_quiet(struct vhp_ring *ring)
{
	if (!ring->event_idx)
		WRITE_ONCE(ring->used->flags,
			   (__force __virtio16)cpu_to_le16(VRING_USED_F_NO_NOTIFY));
}

/* Goes on where the back-end before this one has stopped. */
static inline void vhp_continue(struct vhp_ring *ring)
{
	ring->next = vhp_le16(ring->used->idx);
	ring->seen = ring->next;
	ring->published = ring->next;
	ring->rung = ring->next;
	ring->heard_avail = ring->next;
	ring->heard_used = ring->next;
	ring->repeated = ring->next;
	ring->region = 0;
}

/* The largest packet may take so many `heads` of a ring. The queue stops while it still finds them,
 * and starts again when it is worth it; but no later than any peer will ever make it.
 */
static inline void vhp_set_marks(struct vhp_marks *marks, u32 size, u32 heads)
{
	u32 most = size > 1 ? size / 2 : 1;

	marks->full_stop = heads < most ? heads : most;
	marks->full_wake = marks->full_stop + (heads > 1 ? size / 4 : size / 32);
	if (marks->full_wake > size)
		marks->full_wake = size;
	marks->stop = marks->full_stop;
	marks->wake = marks->full_wake;
}

/* The peer has left the queue stopped for long, with so many heads: it is not waited for again. */
static inline void vhp_lower_marks(struct vhp_marks *marks, u32 waiting)
{
	if (waiting < marks->wake)
		marks->wake = waiting ? waiting : 1;
	if (marks->stop > marks->wake)
		marks->stop = marks->wake;
}

/* So many heads wait: a peer that has posted them will do it again. */
static inline void vhp_raise_marks(struct vhp_marks *marks, u32 waiting)
{
	if (waiting <= marks->wake)
		return;
	marks->wake = waiting < marks->full_wake ? waiting : marks->full_wake;
	marks->stop = marks->full_stop < marks->wake ? marks->full_stop : marks->wake;
}

#endif /* VHP_VRING_H */
