// SPDX-License-Identifier: GPL-2.0
/* The network interface of a vhost-pci link. */
#include <linux/etherdevice.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "access.h"
#include "packet.h"
#include "vhost.h"

static int vhp_open(struct net_device *dev)
{
	/* The connection starts them. Until then nothing may be transmitted, not even past the
	 * queueing discipline.
	 */
	netif_tx_stop_all_queues(dev);
	vhp_link_up(vhp_link(dev));
	return 0;
}

static int vhp_stop(struct net_device *dev)
{
	vhp_link_down(vhp_link(dev));
	return 0;
}

static void vhp_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *sum)
{
	const struct vhp_link *link = vhp_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		vshm_add_stats(&link->queues[i].tx.stats, &link->queues[i].rx.stats, sum);
}

/* Here, where the rtnl lock is held, a grace period is an expedited one: a survivor's device that
 * goes is waited for.
 */
static void vhp_uninit(struct net_device *dev)
{
	struct vhp_link *link = vhp_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		netif_napi_del(&link->queues[i].napi);
}

static const struct net_device_ops vhp_netdev_ops = {
	.ndo_uninit = vhp_uninit,
	.ndo_open = vhp_open,
	.ndo_stop = vhp_stop,
	.ndo_start_xmit = vhp_xmit,
	.ndo_get_stats64 = vhp_get_stats64,
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

/* The queues are allocated apart: what netdev_priv() returns is not aligned to a cache line, and a
 * queue's two halves are to have lines of their own.
 */
struct net_device *vhp_net_alloc(struct vshm_device *device)
{
	u32 pairs = device->identity.queue_pairs;
	struct net_device *dev;
	struct vhp_link *link;

	dev = alloc_etherdev_mqs(sizeof(*link), pairs, pairs);
	if (!dev)
		return NULL;
	link = vhp_link(dev);
	link->queues = kcalloc_node(pairs, sizeof(*link->queues), GFP_KERNEL,
				    dev_to_node(&device->pdev->dev));
	if (!link->queues) {
		free_netdev(dev);
		return NULL;
	}
	link->dev = dev;
	link->pdev = device->pdev;
	link->registers = device->registers;
	link->identity = device->identity;
	link->memory.size = device->identity.region_size;
	link->pairs = pairs;
	vshm_guard_init(&link->guard, NULL);
	SET_NETDEV_DEV(dev, &device->pdev->dev);
	return dev;
}

static int vhp_setup_queue(struct vhp_link *link, u32 index)
{
	struct vhp_queue *queue = &link->queues[index];

	queue->link = link;
	queue->index = index;
	u64_stats_init(&queue->tx.stats.sync);
	u64_stats_init(&queue->rx.stats.sync);
	netif_napi_add(link->dev, &queue->napi, vhp_poll);
	vshm_guard_init(&queue->guard, &queue->napi);
	queue->tx.chain = kvzalloc(sizeof(*queue->tx.chain), GFP_KERNEL);
	queue->rx.chain = kvzalloc(sizeof(*queue->rx.chain), GFP_KERNEL);
	return queue->tx.chain && queue->rx.chain ? 0 : -ENOMEM;
}

int vhp_net_setup(struct vhp_link *link)
{
	const struct vshm_identity *identity = &link->identity;
	u64 features = vshm_read64(&identity->slot->features);
	struct net_device *dev = link->dev;
	int ret;
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		ret = vhp_setup_queue(link, i);
		if (ret)
			return ret;
	}
	dev->netdev_ops = &vhp_netdev_ops;
	dev->ethtool_ops = &vhp_ethtool_ops;
	dev->hw_features = vhp_netdev_features(vhp_accepted(features));
	dev->features = dev->hw_features | NETIF_F_HIGHDMA;
	dev->vlan_features = dev->hw_features;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = vhp_max_mtu(features);
	if (identity->mtu)
		dev->mtu = clamp_t(u32, identity->mtu, ETH_MIN_MTU, dev->max_mtu);
	if (is_valid_ether_addr(identity->mac))
		eth_hw_addr_set(dev, identity->mac);
	else
		eth_hw_addr_random(dev);
	netif_carrier_off(dev);
	return 0;
}

void vhp_net_free(struct vhp_link *link)
{
	struct vhp_queue *queues = link->queues;
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		struct vhp_queue *queue = &queues[i];

		if (!queue->link)
			continue;
		vshm_free_frag(&queue->rx.frag);
		kvfree(queue->tx.chain);
		kvfree(queue->rx.chain);
	}
	/* It takes NAPIs off its list, if they are there still. */
	free_netdev(link->dev);
	kfree(queues);
}
