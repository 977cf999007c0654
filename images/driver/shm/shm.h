/* SPDX-License-Identifier: GPL-2.0 */
/* A link of the kind ivshmem-doorbell: BAR2 has two rings for each queue pair, and a block for each
 * of the two ends.
 */
#ifndef IVD_SHM_H
#define IVD_SHM_H

#include <linux/cache.h>
#include <linux/netdevice.h>

#include "layout.h"
#include "link.h"

/* What the peer can write that cannot be. */
enum ivd_fault {
	IVD_GOOD,
	IVD_BAD_HEAD,
	IVD_BAD_TAIL,
	IVD_BAD_RECORD,
	IVD_FAULTS,
};

/* What the work counts. */
enum ivd_counter {
	IVD_RUNS,		/* how often the handshake was completed */
	IVD_STARTS,		/* how often this side took a new epoch */
	IVD_STALLS,		/* starts since the peer did not empty a full ring */
	IVD_COUNTERS,
};

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
	u32 stall_looks;		/* seconds that a full ring has stood still; the work's */
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
};

struct ivd_queue {
	struct vshm_queue base;
	struct ivd_tx tx ____cacheline_aligned_in_smp;
	struct ivd_rx rx ____cacheline_aligned_in_smp;
};

struct ivd_link {
	struct vshm_link base;

	/* the data path reads these; written by the work */
	u32 peer_id;
	netdev_features_t forbidden;	/* what the peer does not take */

	/* the work's */
	u32 epoch;
	u32 taken;			/* the peer's epoch that was taken in, or 0 */
	struct vshm_side *own;
	const struct vshm_side *peer;	/* not trusted */
	unsigned long burst_began;
	u32 burst;			/* changes of phase since then */
};

static inline struct ivd_link *ivd_link(const struct vshm_link *link)
{
	return container_of(link, struct ivd_link, base);
}

static inline struct ivd_queue *ivd_queue(struct vshm_queue *queue)
{
	return container_of(queue, struct ivd_queue, base);
}

static inline void ivd_ring(const struct vshm_queue *queue, u32 vector)
{
	vshm_write_doorbell(queue->link->registers, ivd_link(queue->link)->peer_id << 16 | vector);
}

/* link.c: for struct vshm_kind */
int ivd_setup(struct vshm_link *link);
void ivd_slot_changed(struct vshm_link *link);
void ivd_step(struct vshm_link *link);
void ivd_close(struct vshm_link *link);
void ivd_phase_changed(struct vshm_link *link);
void ivd_refresh(struct vshm_link *link);

/* tx.c */
netdev_tx_t ivd_xmit(struct sk_buff *skb, struct net_device *dev);
/* For vshm_poll(): has the peer made room enough for a queue that is stopped? */
bool ivd_tx_may_start(struct vshm_queue *queue);
/* Sets the indices to zero and publishes them; nothing transmits. */
void ivd_tx_reset(struct ivd_queue *queue);
/* From the work, once a second: publishes all own fields again. Returns whether the queue is
 * stopped and the peer has made no room for long.
 */
bool ivd_tx_refresh(struct ivd_queue *queue);

/* rx.c */
int ivd_poll(struct napi_struct *napi, int budget);
/* Sets the indices to zero and publishes them; NAPI is disabled. */
void ivd_rx_reset(struct ivd_queue *queue);

/* net.c */
void ivd_net_setup(struct ivd_link *link);

#endif /* IVD_SHM_H */
