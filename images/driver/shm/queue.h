/* SPDX-License-Identifier: GPL-2.0 */
/* A queue pair: the ring this side produces and the one it consumes, each half with the lock
 * that guards it.
 */
#ifndef IVD_QUEUE_H
#define IVD_QUEUE_H

#include <linux/cache.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>

#include "device.h"
#include "layout.h"
#include "stats.h"

struct ivd_link;

/* The ring that this side produces. Guarded by the transmit queue's lock. */
struct ivd_tx {
	u8 *data;
	struct vshm_lines *own;		/* head, room_event */
	const struct vshm_lines *peer;	/* tail, event: read once, not trusted */
	u32 size;
	u32 head;
	u32 tail;			/* the peer's, as last seen and checked */
	u32 rung;			/* the head at the last look at the peer's event */
	u32 room_event;
	u32 refreshed_tail;		/* the tail at the last ivd_tx_refresh() */
	struct vshm_tx_stats stats;
};

/* The ring that this side consumes. NAPI's. */
struct ivd_rx {
	const u8 *data;
	struct vshm_lines *own;		/* tail, event */
	const struct vshm_lines *peer;	/* head, room_event: read once, not trusted */
	u32 size;
	u32 tail;
	u32 head;			/* the peer's, as last seen and checked */
	u32 rung;			/* the tail at the last look at its room_event */
	struct page_frag frag;		/* where the packets' contents go */
	struct vshm_rx_stats stats;
};

struct ivd_queue {
	struct ivd_link *link;
	u32 index;
	struct napi_struct napi;
	struct vshm_guard guard;
	struct ivd_tx tx ____cacheline_aligned_in_smp;
	struct ivd_rx rx ____cacheline_aligned_in_smp;
};

/* tx.c */
netdev_tx_t ivd_xmit(struct sk_buff *skb, struct net_device *dev);
/* Sets the indices to zero and publishes them; nothing transmits. */
void ivd_tx_reset(struct ivd_queue *queue);
/* From NAPI: starts the stack's queue again where the peer has made room. False: the transmit lock
 * is taken, and the next poll has to look.
 */
bool ivd_tx_wake(struct ivd_queue *queue, bool *woke);
/* Publishes all own fields again. Returns whether the queue is stopped and the peer has made no
 * room since last time.
 */
bool ivd_tx_refresh(struct ivd_queue *queue);

/* rx.c */
int ivd_poll(struct napi_struct *napi, int budget);
/* Sets the indices to zero and publishes them; NAPI is disabled. */
void ivd_rx_reset(struct ivd_queue *queue);

#endif /* IVD_QUEUE_H */
