// SPDX-License-Identifier: GPL-2.0
/* The network interface of a link of the kind ivshmem-doorbell, and the kind itself. */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/stringify.h>

#include "packet.h"
#include "shm.h"

#define IVD_FEATURES \
	(NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN)

static netdev_features_t ivd_features_check(struct sk_buff *skb, struct net_device *dev,
					    netdev_features_t features)
{
	const struct ivd_link *ivd = ivd_link(vshm_link(dev));

	features = vlan_features_check(skb, features) & ~READ_ONCE(ivd->forbidden);
	/* The peer would drop it; such a packet is summed, and cut, before it comes to us. */
	if (skb->ip_summed == CHECKSUM_PARTIAL &&
	    skb_checksum_start_offset(skb) > VSHM_CSUM_START_MAX)
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	return features;
}

static const struct net_device_ops ivd_netdev_ops = {
	.ndo_uninit = vshm_uninit,
	.ndo_open = vshm_open,
	.ndo_stop = vshm_stop,
	.ndo_start_xmit = ivd_xmit,
	.ndo_features_check = ivd_features_check,
	.ndo_get_stats64 = vshm_get_stats64,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static void ivd_setup_queue(struct ivd_link *ivd, struct ivd_queue *queue)
{
	const struct vshm_identity *identity = &ivd->base.identity;
	u32 index = queue->base.index;
	u8 *rings = (u8 *)ivd->base.memory + identity->data_offset +
		    2ULL * index * identity->ring_size;

	queue->tx.data = rings + (size_t)identity->role * identity->ring_size;
	queue->tx.own = &ivd->own->lines[index];
	queue->tx.peer = &ivd->peer->lines[index];
	queue->tx.size = identity->ring_size;
	queue->rx.data = rings + (size_t)(1 - identity->role) * identity->ring_size;
	queue->rx.own = &ivd->own->lines[index];
	queue->rx.peer = &ivd->peer->lines[index];
	queue->rx.size = identity->ring_size;
}

void ivd_net_setup(struct ivd_link *ivd)
{
	struct vshm_link *link = &ivd->base;
	u32 i;

	for (i = 0; i < link->pairs; i++)
		ivd_setup_queue(ivd, ivd_queue(link->queues[i]));
	link->dev->hw_features = IVD_FEATURES;
	link->dev->max_mtu = VSHM_MTU_MAX;
}

static void ivd_start_queue(struct vshm_queue *queue)
{
	ivd_queue(queue)->tx.stall_looks = 0;
}

static const char *const ivd_counters[] = {
	[IVD_RUNS] = "runs",
	[IVD_STARTS] = "starts",
	[IVD_STALLS] = "stalls",
};

static_assert(ARRAY_SIZE(ivd_counters) <= VSHM_COUNTERS_MAX);

static const struct vshm_fault ivd_faults[] = {
	[IVD_BAD_HEAD] = { "bad_heads", "a head that cannot be" },
	[IVD_BAD_TAIL] = { "bad_tails", "a tail that cannot be" },
	[IVD_BAD_RECORD] = { "bad_records", "a record that cannot be" },
};

static_assert(ARRAY_SIZE(ivd_faults) <= VSHM_FAULTS_MAX);

const struct vshm_kind ivd_kind = {
	.version = "layout " __stringify(VSHM_REGION_VERSION),
	.link_size = sizeof(struct ivd_link),
	.queue_size = sizeof(struct ivd_queue),
	.vectors = { "data", "room" },
	.counters = ivd_counters,
	.counter_count = ARRAY_SIZE(ivd_counters),
	.faults = ivd_faults,
	.fault_count = ARRAY_SIZE(ivd_faults),
	.netdev_ops = &ivd_netdev_ops,
	.poll = ivd_poll,
	.setup = ivd_setup,
	.start_queue = ivd_start_queue,
	.slot_changed = ivd_slot_changed,
	.step = ivd_step,
	.close = ivd_close,
	.phase_changed = ivd_phase_changed,
	.refresh = ivd_refresh,
};
