/* SPDX-License-Identifier: GPL-2.0 */
/* The ABI between host, guest and peer guest: docs/shared-memory-layout.md says what it means,
 * and a test compares the two. Each field has one writer, named beside it. Compiles in the
 * kernel and in user space.
 */
#ifndef VSHM_LAYOUT_H
#define VSHM_LAYOUT_H

#ifdef __KERNEL__
#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <linux/types.h>
#else
#include <assert.h>
#include <linux/types.h>
#include <stddef.h>
#endif

#define VSHM_CONTROL_MAGIC	0x54435056u
#define VSHM_CONTROL_VERSION	2
#define VSHM_CONTROL_SIZE	65536u
#define VSHM_SLOT_SIZE		2048u
#define VSHM_SLOTS		31u

#define VSHM_REGION_MAGIC	0x4e485356u
#define VSHM_REGION_VERSION	1
#define VSHM_REGION_MIN		1048576u
#define VSHM_PAGE_SIZE		4096u
#define VSHM_DATA_MIN		16384u

#define VSHM_QUEUE_PAIRS_MAX	16u
#define VSHM_PEER_REGIONS_MAX	16u
#define VSHM_PEER_RINGS_MAX	32u
#define VSHM_PEER_RING_MAX	32768u
#define VSHM_RING_MIN		262144u
#define VSHM_RING_MAX		1073741824u

#define VSHM_RECORD_ALIGN	16u
#define VSHM_PACKET_MIN		14u
#define VSHM_PACKET_MAX		65600u

/* Interrupt vectors of a device. */
#define VSHM_VECTOR_CONTROL	0u
#define VSHM_VECTOR_DATA(q)	(1 + 2 * (q))
#define VSHM_VECTOR_ROOM(q)	(2 + 2 * (q))
#define VSHM_VECTOR_KICK(r)	(1 + (r))
#define VSHM_VECTORS(pairs)	(1 + 2 * (pairs))

enum vshm_slot_state {
	VSHM_SLOT_FREE = 0,
	VSHM_SLOT_ON = 1,
	VSHM_SLOT_OFF = 2,
};

enum vshm_slot_kind {
	VSHM_KIND_NET = 1,
	VSHM_KIND_VHOST_PCI = 2,
};

enum vshm_answer_state {
	VSHM_ANSWER_NONE = 0,
	VSHM_ANSWER_ON = 1,
	VSHM_ANSWER_OFF = 2,
};

enum vshm_state {
	VSHM_RESET = 0,
	VSHM_INIT = 1,
	VSHM_READY = 2,
	VSHM_RUN = 3,
};

#define VSHM_FEATURE_CSUM	1u
#define VSHM_FEATURE_TSO4	2u
#define VSHM_FEATURE_TSO6	4u
#define VSHM_FEATURE_ECN	8u

#define VSHM_FLAG_NEEDS_CSUM	0x0001u
#define VSHM_FLAG_DATA_VALID	0x0002u
#define VSHM_FLAG_PAD		0x8000u

#define VSHM_GSO_NONE		0x00u
#define VSHM_GSO_TCPV4		0x01u
#define VSHM_GSO_TCPV6		0x04u
#define VSHM_GSO_ECN		0x80u

struct vshm_control_header {
	__le32 magic;		/* host */
	__le16 version;		/* host */
	__le16 slot_size;	/* host */
	__le16 slots;		/* host */
	__u8 reserved[54];	/* host */
};

struct vshm_peer_region {
	__le64 address;		/* host */
	__le64 size;		/* host */
	__le64 offset;		/* host */
};

struct vshm_peer_ring {
	__le64 desc;		/* host */
	__le64 avail;		/* host */
	__le64 used;		/* host */
	__le32 doorbell;	/* host; anew under a new sequence */
	__le16 size;		/* host */
	__le16 vector;		/* host */
};

struct vshm_answer {
	__le32 state;		/* driver */
	__le32 ivposition;	/* driver */
	__le32 sequence;	/* driver */
	__le32 request;		/* driver; last of all */
	__le64 features;	/* driver */
	__u8 reserved[40];	/* driver */
};

struct vshm_slot {
	__le32 state;		/* host; last of all */
	__le32 ivposition;	/* host */
	__le32 generation;	/* host */
	__le16 kind;		/* host */
	__le16 role;		/* host */
	__le32 peer;		/* host */
	__le32 host;		/* host */
	__le16 queue_pairs;	/* host */
	__le16 mtu;		/* host */
	__u8 mac[6];		/* host */
	__u8 name[16];		/* host */
	__u8 reserved[6];	/* host */
	__le64 region_size;	/* host */
	__le32 data_offset;	/* host */
	__le32 ring_size;	/* host */
	__le64 features;	/* host */
	__le32 sequence;	/* host */
	__le32 region_count;	/* host */
	__le32 confirmed;	/* host */
	__u8 reserved2[36];	/* host */
	struct vshm_peer_region regions[16];	/* host */
	struct vshm_peer_ring rings[32];	/* host */
	__u8 reserved3[448];	/* host */
	struct vshm_answer answer;	/* driver */
};

struct vshm_region_header {
	__le32 magic;		/* host */
	__le16 version;		/* host */
	__le16 header_size;	/* host */
	__le64 region_size;	/* host */
	__le32 generation;	/* host */
	__le32 queue_pairs;	/* host */
	__le32 data_offset;	/* host */
	__le32 ring_size;	/* host */
	__u8 reserved[32];	/* host */
};

struct vshm_lines {
	__le32 head;		/* side s, in ring 2q + s */
	__le32 room_event;	/* side s, in ring 2q + s */
	__u8 reserved[56];	/* side s */
	__le32 tail;		/* side s, in ring 2q + (1 - s) */
	__le32 event;		/* side s, in ring 2q + (1 - s) */
	__u8 reserved2[56];	/* side s */
};

struct vshm_side {
	__le32 state;		/* side s */
	__le32 epoch;		/* side s */
	__le32 peer_epoch;	/* side s */
	__le32 ivposition;	/* side s */
	__le32 generation;	/* side s */
	__le32 features;	/* side s */
	__le32 mtu;		/* side s */
	__u8 reserved[228];	/* side s */
	struct vshm_lines lines[30];	/* side s */
};

struct vshm_record {
	__le32 length;		/* producer */
	__le16 flags;		/* producer */
	__u8 gso_type;		/* producer */
	__u8 reserved;		/* producer */
	__le16 gso_size;	/* producer */
	__le16 hdr_len;		/* producer */
	__le16 csum_start;	/* producer */
	__le16 csum_offset;	/* producer */
};

#define VSHM_AT(type, field, offset) \
	static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define VSHM_SIZE(type, size) static_assert(sizeof(struct type) == (size), #type)

VSHM_AT(vshm_control_header, magic, 0);
VSHM_AT(vshm_control_header, version, 4);
VSHM_AT(vshm_control_header, slot_size, 6);
VSHM_AT(vshm_control_header, slots, 8);
VSHM_AT(vshm_control_header, reserved, 10);
VSHM_SIZE(vshm_control_header, 64);

VSHM_AT(vshm_peer_region, address, 0);
VSHM_AT(vshm_peer_region, size, 8);
VSHM_AT(vshm_peer_region, offset, 16);
VSHM_SIZE(vshm_peer_region, 24);

VSHM_AT(vshm_peer_ring, desc, 0);
VSHM_AT(vshm_peer_ring, avail, 8);
VSHM_AT(vshm_peer_ring, used, 16);
VSHM_AT(vshm_peer_ring, doorbell, 24);
VSHM_AT(vshm_peer_ring, size, 28);
VSHM_AT(vshm_peer_ring, vector, 30);
VSHM_SIZE(vshm_peer_ring, 32);

VSHM_AT(vshm_answer, state, 0);
VSHM_AT(vshm_answer, ivposition, 4);
VSHM_AT(vshm_answer, sequence, 8);
VSHM_AT(vshm_answer, request, 12);
VSHM_AT(vshm_answer, features, 16);
VSHM_AT(vshm_answer, reserved, 24);
VSHM_SIZE(vshm_answer, 64);

VSHM_AT(vshm_slot, state, 0);
VSHM_AT(vshm_slot, ivposition, 4);
VSHM_AT(vshm_slot, generation, 8);
VSHM_AT(vshm_slot, kind, 12);
VSHM_AT(vshm_slot, role, 14);
VSHM_AT(vshm_slot, peer, 16);
VSHM_AT(vshm_slot, host, 20);
VSHM_AT(vshm_slot, queue_pairs, 24);
VSHM_AT(vshm_slot, mtu, 26);
VSHM_AT(vshm_slot, mac, 28);
VSHM_AT(vshm_slot, name, 34);
VSHM_AT(vshm_slot, reserved, 50);
VSHM_AT(vshm_slot, region_size, 56);
VSHM_AT(vshm_slot, data_offset, 64);
VSHM_AT(vshm_slot, ring_size, 68);
VSHM_AT(vshm_slot, features, 72);
VSHM_AT(vshm_slot, sequence, 80);
VSHM_AT(vshm_slot, region_count, 84);
VSHM_AT(vshm_slot, confirmed, 88);
VSHM_AT(vshm_slot, reserved2, 92);
VSHM_AT(vshm_slot, regions, 128);
VSHM_AT(vshm_slot, rings, 512);
VSHM_AT(vshm_slot, reserved3, 1536);
VSHM_AT(vshm_slot, answer, 1984);
VSHM_SIZE(vshm_slot, 2048);

VSHM_AT(vshm_region_header, magic, 0);
VSHM_AT(vshm_region_header, version, 4);
VSHM_AT(vshm_region_header, header_size, 6);
VSHM_AT(vshm_region_header, region_size, 8);
VSHM_AT(vshm_region_header, generation, 16);
VSHM_AT(vshm_region_header, queue_pairs, 20);
VSHM_AT(vshm_region_header, data_offset, 24);
VSHM_AT(vshm_region_header, ring_size, 28);
VSHM_AT(vshm_region_header, reserved, 32);
VSHM_SIZE(vshm_region_header, 64);

VSHM_AT(vshm_lines, head, 0);
VSHM_AT(vshm_lines, room_event, 4);
VSHM_AT(vshm_lines, reserved, 8);
VSHM_AT(vshm_lines, tail, 64);
VSHM_AT(vshm_lines, event, 68);
VSHM_AT(vshm_lines, reserved2, 72);
VSHM_SIZE(vshm_lines, 128);

VSHM_AT(vshm_side, state, 0);
VSHM_AT(vshm_side, epoch, 4);
VSHM_AT(vshm_side, peer_epoch, 8);
VSHM_AT(vshm_side, ivposition, 12);
VSHM_AT(vshm_side, generation, 16);
VSHM_AT(vshm_side, features, 20);
VSHM_AT(vshm_side, mtu, 24);
VSHM_AT(vshm_side, reserved, 28);
VSHM_AT(vshm_side, lines, 256);
VSHM_SIZE(vshm_side, 4096);

VSHM_AT(vshm_record, length, 0);
VSHM_AT(vshm_record, flags, 4);
VSHM_AT(vshm_record, gso_type, 6);
VSHM_AT(vshm_record, reserved, 7);
VSHM_AT(vshm_record, gso_size, 8);
VSHM_AT(vshm_record, hdr_len, 10);
VSHM_AT(vshm_record, csum_start, 12);
VSHM_AT(vshm_record, csum_offset, 14);
VSHM_SIZE(vshm_record, 16);

#endif /* VSHM_LAYOUT_H */
