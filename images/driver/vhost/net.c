// SPDX-License-Identifier: GPL-2.0
/* The network interface of a vhost-pci link, and the kind itself. */
#include <linux/etherdevice.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "access.h"
#include "packet.h"
#include "vhost.h"

static const struct net_device_ops vhp_netdev_ops = {
	.ndo_uninit = vshm_uninit,
	.ndo_open = vshm_open,
	.ndo_stop = vshm_stop,
	.ndo_start_xmit = vhp_xmit,
	.ndo_get_stats64 = vshm_get_stats64,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

/* What the peer takes, we may leave to it. */
static netdev_features_t vhp_netdev_features(u64 accepted)
{
	netdev_features_t features = NETIF_F_SG | NETIF_F_HW_CSUM;

	if (!(accepted & BIT_ULL(VIRTIO_NET_F_GUEST_CSUM)))
		return 0;
	if (accepted & BIT_ULL(VIRTIO_NET_F_GUEST_TSO4))
		features |= NETIF_F_TSO;
	if (accepted & BIT_ULL(VIRTIO_NET_F_GUEST_TSO6))
		features |= NETIF_F_TSO6;
	if (accepted & BIT_ULL(VIRTIO_NET_F_GUEST_ECN))
		features |= NETIF_F_TSO_ECN;
	return features;
}

/* Packets go into buffers that the peer has posted. Without mergeable ones or segments its driver
 * posts them for a full Ethernet packet, and anything larger would only be dropped.
 */
static u32 vhp_max_mtu(u64 features)
{
	if (features & (BIT_ULL(VIRTIO_NET_F_MRG_RXBUF) | BIT_ULL(VIRTIO_NET_F_GUEST_TSO4) |
			BIT_ULL(VIRTIO_NET_F_GUEST_TSO6)))
		return VSHM_MTU_MAX;
	return ETH_DATA_LEN;
}

static int vhp_setup(struct vshm_link *link)
{
	u64 features = vshm_read64(&link->identity.slot->features);
	struct vhp_link *vhp = vhp_link(link);
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		struct vhp_queue *queue = vhp_queue(link->queues[i]);

		queue->tx.chain = kvzalloc(sizeof(*queue->tx.chain), GFP_KERNEL);
		queue->rx.chain = kvzalloc(sizeof(*queue->rx.chain), GFP_KERNEL);
		if (!queue->tx.chain || !queue->rx.chain)
			return -ENOMEM;
	}
	vhp->memory.base = link->memory;
	vhp->memory.size = link->identity.region_size;
	link->dev->hw_features = vhp_netdev_features(vhp_accepted(features));
	link->dev->max_mtu = vhp_max_mtu(features);
	vhp_withdraw(vhp);
	return 0;
}

static void vhp_free_queue(struct vshm_queue *base)
{
	struct vhp_queue *queue = vhp_queue(base);

	kvfree(queue->tx.chain);
	kvfree(queue->rx.chain);
}

static void vhp_start_queue(struct vshm_queue *base)
{
	vhp_tx_start(vhp_queue(base));
	vhp_rx_start(vhp_queue(base));
}

static void vhp_stop_queue(struct vshm_queue *base)
{
	vhp_tx_finish(vhp_queue(base));
}

static const char *const vhp_counters[] = {
	[VHP_CONNECTS] = "connects",
	[VHP_DOORBELL_CHANGES] = "doorbell_changes",
	[VHP_STALLS] = "stalls",
	[VHP_BAD_SLOTS] = "bad_slots",
};

static_assert(ARRAY_SIZE(vhp_counters) <= VSHM_COUNTERS_MAX);

static const struct vshm_fault vhp_faults[] = {
	[VHP_BAD_AVAIL] = { "bad_available", "an available index that cannot be" },
	[VHP_BAD_CHAIN] = { "bad_chains", "a chain of descriptors that cannot be" },
	[VHP_BAD_INDIRECT] = { "bad_indirects", "an indirect table that cannot be" },
	[VHP_BAD_ADDRESS] = { "bad_addresses", "a descriptor outside of its memory" },
	[VHP_BAD_DIRECTION] = { "bad_directions", "a descriptor for the wrong direction" },
	[VHP_FOREIGN_USED] = { "foreign_used", "a used index that is not ours" },
};

static_assert(ARRAY_SIZE(vhp_faults) <= VSHM_FAULTS_MAX);

const struct vshm_kind vhp_kind = {
	.version = "vhost-pci",
	.link_size = sizeof(struct vhp_link),
	.queue_size = sizeof(struct vhp_queue),
	.vectors = { "tx", "rx" },
	.counters = vhp_counters,
	.counter_count = ARRAY_SIZE(vhp_counters),
	.faults = vhp_faults,
	.fault_count = ARRAY_SIZE(vhp_faults),
	.netdev_ops = &vhp_netdev_ops,
	.poll = vhp_poll,
	.setup = vhp_setup,
	.free_queue = vhp_free_queue,
	.start_queue = vhp_start_queue,
	.stop_queue = vhp_stop_queue,
	.step = vhp_step,
	.close = vhp_close,
	.phase_changed = vhp_phase_changed,
	.refresh = vhp_refresh,
};
