/* SPDX-License-Identifier: GPL-2.0 */
/* A link: one device, its region, and the handshake with the peer. */
#ifndef IVD_LINK_H
#define IVD_LINK_H

#include <linux/netdevice.h>
#include <linux/workqueue.h>

#include "device.h"
#include "queue.h"

enum ivd_phase {
	IVD_PHASE_DOWN,	/* the interface is down; waits for its user */
	IVD_PHASE_PAUSE,	/* there was garbage; waits for the end of the pause */
	IVD_PHASE_INIT,	/* has a new epoch; waits for the peer to have one */
	IVD_PHASE_READY,	/* has taken the peer's in; waits for the peer to take in ours */
	IVD_PHASE_RUN,		/* packets flow, carrier is on */
	IVD_PHASE_OFF,		/* the host has called the link off; waits for removal */
};

/* What the rest of the driver asks of the work, which alone changes the phase. Bits of
 * ivd_link.requests.
 */
enum ivd_request {
	IVD_WANT_UP,		/* the interface is up */
	IVD_SUSPECT,		/* the data path has met what cannot be, and stands still */
};

enum ivd_suspicion {
	IVD_BAD_HEAD,
	IVD_BAD_TAIL,
	IVD_BAD_RECORD,
	IVD_SUSPICIONS,
};

/* Written by the work only, read without a lock. */
struct ivd_link_stats {
	u64 runs;		/* how often the handshake was completed */
	u64 starts;		/* how often this side took a new epoch */
	u64 stalls;		/* starts since the peer did not empty a full ring */
	u64 garbage[IVD_SUSPICIONS];
};

struct ivd_link {
	/* the data path reads these */
	struct net_device *dev;
	void __iomem *registers;
	u32 peer_id;
	netdev_features_t forbidden;	/* what the peer does not take; written by the work */
	unsigned long requests;		/* atomic bits, enum ivd_request */
	u32 suspicion;			/* enum ivd_suspicion: of the last IVD_SUSPECT */

	/* the work's; set up before it can run, or written by it alone */
	enum ivd_phase phase;
	u32 epoch;
	u32 taken;			/* the peer's epoch that was taken in, or 0 */
	struct vshm_side *own;
	const struct vshm_side *peer;	/* not trusted */
	unsigned long pause;		/* in jiffies: doubles while there is garbage */
	unsigned long since;		/* when the phase began */
	unsigned long burst_began;
	u32 burst;			/* changes of phase since then */
	unsigned long not_before;	/* when the next one may be */
	unsigned long refreshed;	/* when everything was last published again */
	u32 stall_looks[VSHM_QUEUE_PAIRS_MAX];	/* seconds that a full ring has stood still */
	struct delayed_work work;
	struct workqueue_struct *workqueue;	/* ordered */
	struct ivd_link_stats stats;

	/* set up by probe */
	struct pci_dev *pdev;
	struct vshm_identity identity;
	void *region;
	struct vshm_guard guard;	/* of the control vector */
	u32 pairs;
	struct ivd_queue *queues;
};

static inline struct ivd_link *ivd_link(const struct net_device *dev)
{
	return netdev_priv(dev);
}

static inline void ivd_ring(const struct ivd_link *link, u32 id, u32 vector)
{
	vshm_write_doorbell(link->registers, id << 16 | vector);
}

/* link.c: all of these may be called from any context, if not said otherwise */
void ivd_link_init(struct ivd_link *link);
/* Asks for a look at slot and peer. */
void ivd_link_kick(struct ivd_link *link);
/* These two sleep. After ivd_link_down() no packet moves. */
void ivd_link_up(struct ivd_link *link);
void ivd_link_down(struct ivd_link *link);
/* The data path stops and leaves the rest to the work. */
void ivd_link_suspect(struct ivd_link *link, enum ivd_suspicion suspicion);
static inline bool ivd_link_is_suspect(const struct ivd_link *link)
{
	return test_bit(IVD_SUSPECT, &link->requests);
}

/* net.c */
struct net_device *ivd_net_alloc(struct vshm_device *device);
void ivd_net_setup(struct ivd_link *link);
void ivd_net_free(struct ivd_link *link);

/* ethtool.c */
extern const struct ethtool_ops ivd_ethtool_ops;

#endif /* IVD_LINK_H */
