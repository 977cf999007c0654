/* SPDX-License-Identifier: GPL-2.0 */
/* A link of the kind vhost-pci: this side is the back-end of the peer's virtio-net device, whose
 * whole RAM is BAR2.
 */
#ifndef VHP_VHOST_H
#define VHP_VHOST_H

#include <linux/cache.h>
#include <linux/netdevice.h>
#include <linux/virtio_net.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "device.h"
#include "stats.h"
#include "vring.h"

enum vhp_phase {
	VHP_PHASE_DOWN,		/* the interface is down; waits for its user */
	VHP_PHASE_PAUSE,	/* there was garbage; waits for the end of the pause */
	VHP_PHASE_RUN,		/* packets flow, carrier is on */
	VHP_PHASE_CLOSING,	/* has gone off; waits for the host to confirm it */
	VHP_PHASE_OFF,		/* the host has called the link off; waits for removal */
};

/* What the rest of the driver asks of the work, which alone changes the phase. Bits of
 * vhp_link.requests.
 */
enum vhp_request {
	VHP_WANT_UP,		/* the interface is up */
};

/* Written by the work only, read without a lock. */
struct vhp_link_stats {
	u64 connects;		/* how often rings were taken up */
	u64 doorbell_changes;	/* how often the host has changed doorbells meanwhile */
	u64 stalls;		/* how often the peer did not fill an empty ring for seconds */
	u64 bad_slots;		/* what the host says of rings and regions cannot be */
	u64 faults[VHP_FAULTS];
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
	struct vshm_tx_stats stats;
};

/* The peer's transmit queue, which this side empties. NAPI's. */
struct vhp_rx {
	struct vhp_ring ring;
	u32 doorbell;			/* written by the work */
	struct vhp_chain *chain;
	struct page_frag frag;		/* where the packets' contents go */
	bool refresh;			/* set by the work: time for a look at the peer */
	struct vshm_rx_stats stats;
};

struct vhp_queue {
	struct vhp_link *link;
	u32 index;
	struct napi_struct napi;
	struct vshm_guard guard;
	struct vhp_tx tx ____cacheline_aligned_in_smp;
	struct vhp_rx rx ____cacheline_aligned_in_smp;
};

struct vhp_link {
	/* the data path reads these; written by the work while it stands still */
	struct net_device *dev;
	void __iomem *registers;
	struct vhp_memory memory;
	u32 header_size;		/* of the virtio header before each packet */
	bool mergeable;			/* a packet may go into several of the peer's buffers */
	unsigned long requests;		/* atomic bits, enum vhp_request */
	u32 fault;			/* enum vhp_fault: the first that the data path has met */

	/* the work's; set up before it can run, or written by it alone */
	enum vhp_phase phase;
	u64 features;			/* negotiated by the peer */
	u64 accepted;			/* of them, by us */
	u32 sequence;			/* of the doorbells in use */
	u32 request;			/* of our last answer */
	unsigned long pause;		/* in jiffies: doubles while there is garbage */
	unsigned long since;		/* when the phase began */
	unsigned long refreshed;	/* when the rings were last looked at unasked */
	struct delayed_work work;
	struct workqueue_struct *workqueue;	/* ordered */
	wait_queue_head_t settled;	/* phase is no longer VHP_PHASE_CLOSING */
	struct vhp_link_stats stats;

	/* set up by probe */
	struct pci_dev *pdev;
	struct vshm_identity identity;
	struct vshm_guard guard;	/* of the control vector */
	u32 pairs;
	struct vhp_queue *queues;
};

static inline struct vhp_link *vhp_link(const struct net_device *dev)
{
	return netdev_priv(dev);
}

/* peer.c: what the host says of the peer */
/* Takes in memory, rings and features as the slot has them now; nothing moves meanwhile. False:
 * they cannot be.
 */
bool vhp_read_peer(struct vhp_link *link);
void vhp_read_doorbells(struct vhp_link *link);
/* Of the peer's features those that this driver accepts. */
u64 vhp_accepted(u64 features);

/* link.c: all of these may be called from any context, if not said otherwise */
void vhp_link_init(struct vhp_link *link);
/* Asks for a look at the slot. */
void vhp_link_kick(struct vhp_link *link);
/* These two sleep. After vhp_link_down() nothing touches BAR2, and the host knows it, or did not
 * answer.
 */
void vhp_link_up(struct vhp_link *link);
void vhp_link_down(struct vhp_link *link);
/* Begins vhp_link_down(), and does not wait. */
void vhp_link_leave(struct vhp_link *link);
/* The data path stops and leaves the rest to the work. */
void vhp_link_suspect(struct vhp_link *link, enum vhp_fault fault);
static inline bool vhp_link_is_suspect(const struct vhp_link *link)
{
	return READ_ONCE(link->fault) != VHP_GOOD;
}

/* tx.c */
netdev_tx_t vhp_xmit(struct sk_buff *skb, struct net_device *dev);
/* Takes the ring up; nothing transmits. */
void vhp_tx_start(struct vhp_queue *queue);
/* Shows the peer what it was not shown yet; nothing transmits any more. */
void vhp_tx_finish(struct vhp_queue *queue);
/* From NAPI: starts the stack's queue again where the peer has made room. False: the transmit lock
 * is taken, and the next poll has to look.
 */
bool vhp_tx_wake(struct vhp_queue *queue, bool *woke);
/* From the work, once a second. Returns whether the peer leaves its ring empty for long. */
bool vhp_tx_refresh(struct vhp_queue *queue);

/* rx.c */
int vhp_poll(struct napi_struct *napi, int budget);
/* Takes the ring up; NAPI is disabled. */
void vhp_rx_start(struct vhp_queue *queue);

/* net.c */
struct net_device *vhp_net_alloc(struct vshm_device *device);
int vhp_net_setup(struct vhp_link *link);
void vhp_net_free(struct vhp_link *link);

/* ethtool.c */
extern const struct ethtool_ops vhp_ethtool_ops;

#endif /* VHP_VHOST_H */
