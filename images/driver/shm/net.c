// SPDX-License-Identifier: GPL-2.0
/* The network interface. */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/slab.h>

#include "link.h"
#include "packet.h"
#include "ring.h"

#define IVD_FEATURES \
	(NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN)

static int ivd_open(struct net_device *dev)
{
	/* The handshake starts them. Until then nothing may be transmitted, not even past the
	 * queueing discipline.
	 */
	netif_tx_stop_all_queues(dev);
	ivd_link_up(ivd_link(dev));
	return 0;
}

static int ivd_stop(struct net_device *dev)
{
	ivd_link_down(ivd_link(dev));
	return 0;
}

static netdev_features_t ivd_features_check(struct sk_buff *skb, struct net_device *dev,
					    netdev_features_t features)
{
	features = vlan_features_check(skb, features) & ~READ_ONCE(ivd_link(dev)->forbidden);
	/* The peer would drop it; such a packet is summed, and cut, before it comes to us. */
	if (skb->ip_summed == CHECKSUM_PARTIAL &&
	    skb_checksum_start_offset(skb) > VSHM_CSUM_START_MAX)
		features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK);
	return features;
}

static void ivd_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *sum)
{
	const struct ivd_link *link = ivd_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		vshm_add_stats(&link->queues[i].tx.stats, &link->queues[i].rx.stats, sum);
}

/* Here, where the rtnl lock is held, a grace period is an expedited one: a survivor's device that
 * goes is waited for.
 */
static void ivd_uninit(struct net_device *dev)
{
	struct ivd_link *link = ivd_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		netif_napi_del(&link->queues[i].napi);
}

static const struct net_device_ops ivd_netdev_ops = {
	.ndo_uninit = ivd_uninit,
	.ndo_open = ivd_open,
	.ndo_stop = ivd_stop,
	.ndo_start_xmit = ivd_xmit,
	.ndo_features_check = ivd_features_check,
	.ndo_get_stats64 = ivd_get_stats64,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static void ivd_setup_queue(struct ivd_link *link, u32 index)
{
	const struct vshm_identity *identity = &link->identity;
	struct ivd_queue *queue = &link->queues[index];
	u8 *rings = (u8 *)link->region + identity->data_offset + 2ULL * index * identity->ring_size;

	queue->link = link;
	queue->index = index;
	queue->tx.data = rings + (size_t)identity->role * identity->ring_size;
	queue->tx.own = &link->own->lines[index];
	queue->tx.peer = &link->peer->lines[index];
	queue->tx.size = identity->ring_size;
	u64_stats_init(&queue->tx.stats.sync);
	queue->rx.data = rings + (size_t)(1 - identity->role) * identity->ring_size;
	queue->rx.own = &link->own->lines[index];
	queue->rx.peer = &link->peer->lines[index];
	queue->rx.size = identity->ring_size;
	u64_stats_init(&queue->rx.stats.sync);
	netif_napi_add(link->dev, &queue->napi, ivd_poll);
	vshm_guard_init(&queue->guard, &queue->napi);
}

/* The queues are allocated apart: what netdev_priv() returns is not aligned to a cache line, and a
 * queue's two halves are to have lines of their own.
 */
struct net_device *ivd_net_alloc(struct vshm_device *device)
{
	u32 pairs = device->identity.queue_pairs;
	struct pci_dev *pdev = device->pdev;
	struct net_device *dev;
	struct ivd_link *link;

	dev = alloc_etherdev_mqs(sizeof(*link), pairs, pairs);
	if (!dev)
		return NULL;
	link = ivd_link(dev);
	link->queues = kcalloc_node(pairs, sizeof(*link->queues), GFP_KERNEL,
				    dev_to_node(&pdev->dev));
	if (!link->queues) {
		free_netdev(dev);
		return NULL;
	}
	link->dev = dev;
	link->pdev = pdev;
	link->registers = device->registers;
	link->identity = device->identity;
	link->pairs = pairs;
	vshm_guard_init(&link->guard, NULL);
	SET_NETDEV_DEV(dev, &pdev->dev);
	return dev;
}

void ivd_net_setup(struct ivd_link *link)
{
	const struct vshm_identity *identity = &link->identity;
	struct net_device *dev = link->dev;
	u32 i;

	for (i = 0; i < link->pairs; i++)
		ivd_setup_queue(link, i);
	dev->netdev_ops = &ivd_netdev_ops;
	dev->ethtool_ops = &ivd_ethtool_ops;
	dev->hw_features = IVD_FEATURES;
	dev->features = IVD_FEATURES | NETIF_F_HIGHDMA;
	dev->vlan_features = IVD_FEATURES;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = VSHM_MTU_MAX;
	if (identity->mtu)
		dev->mtu = clamp_t(u32, identity->mtu, ETH_MIN_MTU, VSHM_MTU_MAX);
	if (is_valid_ether_addr(identity->mac))
		eth_hw_addr_set(dev, identity->mac);
	else
		eth_hw_addr_random(dev);
	netif_carrier_off(dev);
}

void ivd_net_free(struct ivd_link *link)
{
	struct ivd_queue *queues = link->queues;
	u32 i;

	for (i = 0; i < link->pairs; i++)
		vshm_free_frag(&link->queues[i].rx.frag);
	/* It takes NAPIs off its list, if they are there still. */
	free_netdev(link->dev);
	kfree(queues);
}
