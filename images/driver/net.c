// SPDX-License-Identifier: GPL-2.0
/* The network interface of a link: what is the same for all kinds. */
#include <linux/etherdevice.h>
#include <linux/slab.h>

#include "link.h"
#include "packet.h"

/**
 * vshm_open() - ndo_open
 * @dev: the interface
 *
 * Return: 0
 */
int vshm_open(struct net_device *dev)
{
	/* The work starts them. Until then nothing may be transmitted, not even past the queueing
	 * discipline.
	 */
	netif_tx_stop_all_queues(dev);
	vshm_link_up(vshm_link(dev));
	return 0;
}

/**
 * vshm_stop() - ndo_stop
 * @dev: the interface
 *
 * Return: 0
 */
int vshm_stop(struct net_device *dev)
{
	vshm_link_down(vshm_link(dev));
	return 0;
}

/**
 * vshm_uninit() - ndo_uninit
 * @dev: the interface
 *
 * The rtnl lock is held here, so that the grace period is an expedited one. A survivor's device
 * that goes is waited for.
 */
void vshm_uninit(struct net_device *dev)
{
	struct vshm_link *link = vshm_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		netif_napi_del(&link->queues[i]->napi);
}

/**
 * vshm_get_stats64() - ndo_get_stats64
 * @dev: the interface
 * @sum: all queues' counters are added to it
 */
void vshm_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *sum)
{
	const struct vshm_link *link = vshm_link(dev);
	u32 i;

	for (i = 0; i < link->pairs; i++)
		vshm_add_stats(&link->queues[i]->tx_stats, &link->queues[i]->rx_stats, sum);
}

/* The queues are allocated apart: what netdev_priv() returns is not aligned to a cache line, and a
 * queue's two halves are to have lines of their own.
 */
static int vshm_alloc_queue(struct vshm_link *link)
{
	struct vshm_queue *queue;

	queue = kzalloc_node(link->kind->queue_size, GFP_KERNEL, dev_to_node(&link->pdev->dev));
	if (!queue)
		return -ENOMEM;
	queue->link = link;
	queue->index = link->pairs;
	u64_stats_init(&queue->tx_stats.sync);
	u64_stats_init(&queue->rx_stats.sync);
	netif_napi_add(link->dev, &queue->napi, link->kind->poll);
	vshm_guard_init(&queue->guard, &queue->napi);
	link->queues[link->pairs++] = queue;
	return 0;
}

/**
 * vshm_net_alloc() - allocate an interface, and with it the link and its queues
 * @pdev: the device
 * @identity: its slot
 * @kind: the kind of its link
 *
 * Return: the link, or NULL.
 */
struct vshm_link *vshm_net_alloc(struct pci_dev *pdev, const struct vshm_identity *identity,
				 const struct vshm_kind *kind)
{
	struct vshm_link *link;
	struct net_device *dev;

	dev = alloc_etherdev_mqs(kind->link_size, identity->queue_pairs, identity->queue_pairs);
	if (!dev)
		return NULL;
	SET_NETDEV_DEV(dev, &pdev->dev);
	link = vshm_link(dev);
	link->dev = dev;
	link->kind = kind;
	link->pdev = pdev;
	link->identity = *identity;
	vshm_guard_init(&link->guard, NULL);
	while (link->pairs < identity->queue_pairs) {
		if (vshm_alloc_queue(link)) {
			vshm_net_free(link);
			return NULL;
		}
	}
	return link;
}

/**
 * vshm_net_setup() - set up the interface, which its kind has given its features and largest MTU
 * @link: the link
 */
void vshm_net_setup(struct vshm_link *link)
{
	const struct vshm_identity *identity = &link->identity;
	struct net_device *dev = link->dev;

	dev->netdev_ops = link->kind->netdev_ops;
	dev->ethtool_ops = &vshm_ethtool_ops;
	dev->features = dev->hw_features | NETIF_F_HIGHDMA;
	dev->vlan_features = dev->hw_features;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	dev->min_mtu = ETH_MIN_MTU;
	if (identity->mtu)
		dev->mtu = clamp_t(u32, identity->mtu, ETH_MIN_MTU, dev->max_mtu);
	if (is_valid_ether_addr(identity->mac))
		eth_hw_addr_set(dev, identity->mac);
	else
		eth_hw_addr_random(dev);
	netif_carrier_off(dev);
}

/**
 * vshm_net_free() - free the interface, its link and its queues
 * @link: the link, whose interface is not registered
 */
void vshm_net_free(struct vshm_link *link)
{
	struct vshm_queue *queues[VSHM_QUEUE_PAIRS_MAX];
	u32 pairs = link->pairs;
	u32 i;

	for (i = 0; i < pairs; i++) {
		queues[i] = link->queues[i];
		vshm_free_frag(&queues[i]->frag);
		if (link->kind->free_queue)
			link->kind->free_queue(queues[i]);
	}
	/* It takes NAPIs off its list, if they are there still. */
	free_netdev(link->dev);
	for (i = 0; i < pairs; i++)
		kfree(queues[i]);
}
