/* SPDX-License-Identifier: GPL-2.0 */
/* A queue pair's data path, as far as it is the same for all kinds. What a kind does differently is
 * passed as functions, which are inlined.
 */
#ifndef VSHM_QUEUE_H
#define VSHM_QUEUE_H

#include <linux/netdevice.h>
#include <linux/skbuff.h>

#include "link.h"
#include "poll.h"

static inline struct netdev_queue *vshm_txq(const struct vshm_queue *queue)
{
	return netdev_get_tx_queue(queue->link->dev, queue->index);
}

/**
 * vshm_tx_wake() - start the stack's queue again where the peer has made room
 * @queue: the queue
 * @may_start: looks at the ring, under the transmit lock
 * @woke: set where it was started
 *
 * Return: false if the transmit lock is taken, so that the next poll has to look.
 */
static __always_inline bool vshm_tx_wake(struct vshm_queue *queue,
					 bool (*may_start)(struct vshm_queue *queue), bool *woke)
{
	struct netdev_queue *txq = vshm_txq(queue);

	if (!netif_tx_queue_stopped(txq))
		return true;
	/* A transmitter that is just about to stop the queue holds the lock; it sees the room that
	 * the peer made, or we do. It may be this CPU: netpoll polls from wherever a message is
	 * printed, under this lock too.
	 */
	if (!__netif_tx_trylock(txq))
		return false;
	if (netif_tx_queue_stopped(txq) && may_start(queue)) {
		netif_tx_wake_queue(txq);
		*woke = true;
	}
	__netif_tx_unlock(txq);
	return true;
}

/**
 * vshm_poll() - a poll of NAPI's
 * @napi: the queue's
 * @budget: how many packets it may receive; 0 is netpoll's, which wants room and nothing else
 * @may_start: see vshm_tx_wake()
 * @receive: receives at most as many packets as it is told, and returns how many
 * @may_sleep: see vshm_end_poll()
 *
 * Return: what the poll is to return.
 */
static __always_inline int vshm_poll(struct napi_struct *napi, int budget,
				     bool (*may_start)(struct vshm_queue *queue),
				     int (*receive)(struct vshm_queue *queue, int budget),
				     bool (*may_sleep)(struct napi_struct *napi))
{
	struct vshm_queue *queue = container_of(napi, struct vshm_queue, napi);
	bool looked = true, woke = false;
	int done = 0;

	/* What is wrong is for the work to deal with. Until then nothing is touched, and no poll is
	 * worth another.
	 */
	if (!vshm_is_suspect(queue->link)) {
		looked = vshm_tx_wake(queue, may_start, &woke);
		if (budget) {
			done = receive(queue, budget);
			vshm_guard_polled(&queue->guard, done, woke);
		}
	}
	return looked ? vshm_end_poll(napi, done, budget, may_sleep) : budget;
}

/**
 * vshm_count_tx() - count a packet
 * @queue: the queue
 * @sent: whether it was sent, or is dropped for good
 * @length: its length
 */
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

/**
 * vshm_free_skb() - free a packet
 * @skb: the packet
 * @sent: whether it was sent, or is dropped for good
 */
static inline void vshm_free_skb(struct sk_buff *skb, bool sent)
{
	if (sent)
		dev_consume_skb_any(skb);
	else
		dev_kfree_skb_any(skb);
}

/**
 * vshm_stop_queue() - stop the stack's queue, since the ring is full
 * @queue: the queue
 * @txq: the stack's
 */
static inline void vshm_stop_queue(struct vshm_queue *queue, struct netdev_queue *txq)
{
	netif_tx_stop_queue(txq);
	vshm_count(&queue->tx_stats.sync, &queue->tx_stats.ring_full);
}

#endif /* VSHM_QUEUE_H */
