/* SPDX-License-Identifier: GPL-2.0 */
/* A queue pair's data path, as far as it is the same for all kinds. */
#ifndef VSHM_QUEUE_H
#define VSHM_QUEUE_H

#include <linux/netdevice.h>
#include <linux/skbuff.h>

#include "link.h"

static inline struct netdev_queue *vshm_txq(const struct vshm_queue *queue)
{
	return netdev_get_tx_queue(queue->link->dev, queue->index);
}

/* A packet was sent, or is dropped for good. */
static inline void vshm_count_tx(struct vshm_queue *queue, bool sent, u32 length)
{
	struct vshm_tx_stats *stats = &queue->tx_stats;

	u64_stats_update_begin(&stats->sync);
	if (sent) {
		u64_stats_inc(&stats->packets);
		u64_stats_add(&stats->bytes, length);
	} else {
		u64_stats_inc(&stats->dropped);
	}
	u64_stats_update_end(&stats->sync);
}

static inline void vshm_free_skb(struct sk_buff *skb, bool sent)
{
	if (sent)
		dev_consume_skb_any(skb);
	else
		dev_kfree_skb_any(skb);
}

/* The queue was stopped: its ring is full. */
static inline void vshm_stop_queue(struct vshm_queue *queue, struct netdev_queue *txq)
{
	netif_tx_stop_queue(txq);
	vshm_count(&queue->tx_stats.sync, &queue->tx_stats.ring_full);
}

#endif /* VSHM_QUEUE_H */
