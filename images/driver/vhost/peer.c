// SPDX-License-Identifier: GPL-2.0
/* What the host says of the peer: its memory, its rings, what it has negotiated. The host is
 * trusted, but nothing is used before it is known to lie in BAR2.
 */
#include <linux/moduleparam.h>
#include <linux/virtio_config.h>

#include "access.h"
#include "vhost.h"

static unsigned long long vhp_features_mask = ~0ULL;
module_param_named(features, vhp_features_mask, ullong, 0444);
MODULE_PARM_DESC(features, "virtio-net feature bits to accept of vhost-pci peers (all by default)");

#define VHP_FEATURES \
	(BIT_ULL(VIRTIO_NET_F_CSUM) | BIT_ULL(VIRTIO_NET_F_GUEST_CSUM) | \
	 BIT_ULL(VIRTIO_NET_F_GUEST_TSO4) | BIT_ULL(VIRTIO_NET_F_GUEST_TSO6) | \
	 BIT_ULL(VIRTIO_NET_F_GUEST_ECN) | BIT_ULL(VIRTIO_NET_F_HOST_TSO4) | \
	 BIT_ULL(VIRTIO_NET_F_HOST_TSO6) | BIT_ULL(VIRTIO_NET_F_HOST_ECN) | \
	 BIT_ULL(VIRTIO_NET_F_MRG_RXBUF) | BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | \
	 BIT_ULL(VIRTIO_RING_F_EVENT_IDX) | BIT_ULL(VIRTIO_F_VERSION_1))

/* Other bits are none of this driver's business: the peer's QEMU and the host keep them between
 * themselves.
 */
u64 vhp_accepted(u64 features)
{
	return features & (~VHP_FEATURES | vhp_features_mask);
}

static bool vhp_read_memory(struct vhp_memory *memory, const struct vshm_slot *slot)
{
	u32 i;

	memory->count = vshm_read(&slot->region_count);
	if (!memory->count || memory->count > VSHM_PEER_REGIONS_MAX)
		return false;
	for (i = 0; i < memory->count; i++) {
		struct vhp_region *region = &memory->regions[i];

		region->address = vshm_read64(&slot->regions[i].address);
		region->size = vshm_read64(&slot->regions[i].size);
		region->offset = vshm_read64(&slot->regions[i].offset);
		if (!vhp_region_valid(region, memory->size))
			return false;
	}
	return true;
}

static bool vhp_read_ring(const struct vhp_link *vhp, u32 index, struct vhp_ring *ring)
{
	const struct vshm_peer_ring *shared = &vhp->base.identity.slot->rings[index];
	u64 desc = vshm_read64(&shared->desc);
	u64 avail = vshm_read64(&shared->avail);
	u64 used = vshm_read64(&shared->used);
	u32 size = vshm_read16(&shared->size);

	if (!vhp_ring_valid(desc, avail, used, size, vhp->memory.size))
		return false;
	if (vshm_read16(&shared->vector) != VSHM_VECTOR_KICK(index))
		return false;
	ring->desc = (const void *)(vhp->memory.base + desc);
	ring->avail = (const void *)(vhp->memory.base + avail);
	ring->used = (void *)(vhp->memory.base + used);
	ring->size = size;
	ring->event_idx = vhp->features & BIT_ULL(VIRTIO_RING_F_EVENT_IDX);
	ring->indirect = vhp->features & BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC);
	return true;
}

bool vhp_read_peer(struct vhp_link *vhp)
{
	const struct vshm_slot *slot = vhp->base.identity.slot;
	u64 header = BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_NET_F_MRG_RXBUF);
	u32 i;

	vhp->features = vshm_read64(&slot->features);
	vhp->accepted = vhp_accepted(vhp->features);
	vhp->mergeable = vhp->features & BIT_ULL(VIRTIO_NET_F_MRG_RXBUF);
	vhp->header_size = vhp->features & header ? sizeof(struct virtio_net_hdr_mrg_rxbuf) :
						     sizeof(struct virtio_net_hdr);
	if (!vhp_read_memory(&vhp->memory, slot))
		return false;
	for (i = 0; i < vhp->base.pairs; i++) {
		struct vhp_queue *queue = vhp_queue(vhp->base.queues[i]);

		if (!vhp_read_ring(vhp, 2 * i, &queue->tx.ring) ||
		    !vhp_read_ring(vhp, 2 * i + 1, &queue->rx.ring))
			return false;
	}
	vhp_read_doorbells(vhp);
	return true;
}

void vhp_read_doorbells(struct vhp_link *vhp)
{
	const struct vshm_slot *slot = vhp->base.identity.slot;
	u32 i;

	vhp->sequence = vshm_acquire(&slot->sequence);
	for (i = 0; i < vhp->base.pairs; i++) {
		struct vhp_queue *queue = vhp_queue(vhp->base.queues[i]);

		WRITE_ONCE(queue->tx.doorbell, vshm_read(&slot->rings[2 * i].doorbell));
		WRITE_ONCE(queue->rx.doorbell, vshm_read(&slot->rings[2 * i + 1].doorbell));
	}
}
