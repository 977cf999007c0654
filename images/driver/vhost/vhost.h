/* SPDX-License-Identifier: GPL-2.0 */
/* A link of the kind vhost-pci: this side is the back-end of the peer's virtio-net device, whose
 * whole RAM is BAR2.
 */
#ifndef VHP_VHOST_H
#define VHP_VHOST_H

#include <linux/cache.h>
#include <linux/netdevice.h>
#include <linux/virtio_net.h>

#include "link.h"
#include "vring.h"

/* What the work counts. */
enum vhp_counter {
	VHP_CONNECTS,		/* how often rings were taken up */
	VHP_DOORBELL_CHANGES,	/* how often the host has changed doorbells meanwhile */
	VHP_STALLS,		/* how often the peer did not fill an empty ring for seconds */
	VHP_BAD_SLOTS,		/* what the host says of rings and regions cannot be */
	VHP_COUNTERS,
};

/* The peer's receive queue, which this side fills. Guarded by the transmit queue's lock. */
struct vhp_tx {
	struct vhp_ring ring;
	u32 doorbell;			/* written by the work */
	struct vhp_marks marks;
	u32 awaited_heads;		/* with how many a queue that is stopped now starts again */
	u32 stall_looks;		/* seconds that an empty ring has stood still; the work's */
	bool stalled;			/* the peer does not fill its ring: packets are dropped */
	u16 refreshed_seen;		/* the available index at the last refresh */
	struct vhp_chain *chain;
};

/* The peer's transmit queue, which this side empties. NAPI's. */
struct vhp_rx {
	struct vhp_ring ring;
	u32 doorbell;			/* written by the work */
	struct vhp_chain *chain;
	bool refresh;			/* set by the work: time for a look at the peer */
};

struct vhp_queue {
	struct vshm_queue base;
	struct vhp_tx tx ____cacheline_aligned_in_smp;
	struct vhp_rx rx ____cacheline_aligned_in_smp;
};

struct vhp_link {
	struct vshm_link base;

	/* the data path reads these; written by the work while it stands still */
	struct vhp_memory memory;
	u32 header_size;		/* of the virtio header before each packet */
	bool mergeable;			/* a packet may go into several of the peer's buffers */

	/* the work's */
	u64 features;			/* negotiated by the peer */
	u64 accepted;			/* of them, by us */
	u32 sequence;			/* of the doorbells in use */
	u32 request;			/* of our last answer */
};

static inline struct vhp_link *vhp_link(const struct vshm_link *link)
{
	return container_of(link, struct vhp_link, base);
}

static inline struct vhp_queue *vhp_queue(struct vshm_queue *queue)
{
	return container_of(queue, struct vhp_queue, base);
}

/* peer.c: what the host says of the peer */
/* Takes in memory, rings and features as the slot has them now; nothing moves meanwhile. False:
 * they cannot be.
 */
bool vhp_read_peer(struct vhp_link *vhp);
void vhp_read_doorbells(struct vhp_link *vhp);
/* Of the peer's features those that this driver accepts. */
u64 vhp_accepted(u64 features);

/* link.c: for struct vshm_kind */
void vhp_step(struct vshm_link *link);
void vhp_close(struct vshm_link *link);
void vhp_phase_changed(struct vshm_link *link);
void vhp_refresh(struct vshm_link *link);
/* An earlier driver's answer in the slot no longer counts. */
void vhp_withdraw(struct vhp_link *vhp);

/* tx.c */
netdev_tx_t vhp_xmit(struct sk_buff *skb, struct net_device *dev);
/* For vshm_poll(): are the buffers there that a queue that is stopped waits for? */
bool vhp_tx_may_start(struct vshm_queue *queue);
/* Takes the ring up; nothing transmits. */
void vhp_tx_start(struct vhp_queue *queue);
/* Shows the peer what it was not shown yet; nothing transmits any more. */
void vhp_tx_finish(struct vhp_queue *queue);
/* From the work, once a second. Returns whether the peer leaves its ring empty for long. */
bool vhp_tx_refresh(struct vhp_queue *queue);

/* rx.c */
int vhp_poll(struct napi_struct *napi, int budget);
/* Takes the ring up; NAPI is disabled. */
void vhp_rx_start(struct vhp_queue *queue);

#endif /* VHP_VHOST_H */
