/* SPDX-License-Identifier: GPL-2.0 */
/* A link: one device, its network interface, and the work that alone changes the link's phase.
 * What the kinds of links do differently is in struct vshm_kind.
 */
#ifndef VSHM_LINK_H
#define VSHM_LINK_H

#include <linux/cache.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "control.h"
#include "interrupts.h"
#include "layout.h"
#include "pci.h"
#include "stats.h"

/* The most that a kind counts, and the most kinds of garbage that it tells apart. */
#define VSHM_COUNTERS_MAX	8u
#define VSHM_FAULTS_MAX		8u

/* The pause after garbage. */
#define VSHM_PAUSE_MIN		(HZ / 10)
#define VSHM_PAUSE_MAX		(2 * HZ)

enum vshm_phase {
	VSHM_PHASE_DOWN,	/* the interface is down; waits for its user */
	VSHM_PHASE_PAUSE,	/* there was garbage; waits for the end of the pause */
	VSHM_PHASE_INIT,	/* shm: has a new epoch; waits for the peer to have one */
	VSHM_PHASE_READY,	/* shm: has taken the peer's in; waits for the peer to do so */
	VSHM_PHASE_RUN,		/* packets flow, carrier is on */
	VSHM_PHASE_CLOSING,	/* vhost: has gone off; waits for the host to confirm it */
	VSHM_PHASE_OFF,		/* the host has called the link off; waits for removal */
};

struct vshm_link;

/**
 * struct vshm_queue - a queue pair; a kind's own begins with it
 * @link: the link that it belongs to
 * @index: its number, which is also that of the stack's transmit queue
 * @napi: polls it
 * @frag: where the contents of received packets go; NAPI's
 * @guard: watches over its two vectors
 * @tx_stats: counted under the transmit queue's lock
 * @rx_stats: counted by NAPI
 */
struct vshm_queue {
	struct vshm_link *link;
	u32 index;
	struct napi_struct napi;
	struct page_frag frag;
	struct vshm_guard guard;
	struct vshm_tx_stats tx_stats ____cacheline_aligned_in_smp;
	struct vshm_rx_stats rx_stats ____cacheline_aligned_in_smp;
};

/**
 * struct vshm_fault - garbage that a peer can write; the data path stands still when it meets it
 * @counter: its name in ethtool's statistics
 * @description: for the log: "the peer has written ..."
 */
struct vshm_fault {
	const char *counter;
	const char *description;
};

/**
 * struct vshm_kind - what one kind of link does differently from the others
 * @version: for ethtool
 * @link_size: of the kind's own structure, which begins with a struct vshm_link
 * @queue_size: of the kind's own structure, which begins with a struct vshm_queue
 * @vectors: what the two interrupt vectors of a queue pair are called
 * @counters: names of what the work counts in vshm_link.counters
 * @counter_count: how many those are
 * @faults: the kinds of garbage, by the number that vshm_suspect() gets; 0 is none of them
 * @fault_count: the highest number and one
 * @netdev_ops: the interface's; they call vshm_open() and its like
 * @poll: NAPI's
 * @setup: once, in probe, with BAR2 mapped: takes in what the slot says, sets up the queues and the
 *	interface's features and largest MTU, and withdraws what an earlier driver has published
 * @free_queue: frees what @setup has allocated for a queue, if anything; may be NULL
 * @start_queue: before a queue's NAPI is enabled; may be NULL
 * @stop_queue: after NAPI was disabled and transmission has stopped; may be NULL
 * @slot_changed: the host has changed the slot since vshm_control_renew(); may be NULL
 * @step: the interface is up: one step towards VSHM_PHASE_RUN, or a look at whether it may last
 * @close: the interface is down: one step towards VSHM_PHASE_DOWN
 * @phase_changed: publishes the new phase, before packets flow in it; may be NULL
 * @refresh: once a second while the interface is up: repeats what may have got lost
 *
 * All but @netdev_ops, @poll, @setup and @free_queue are called by the link's work only.
 */
struct vshm_kind {
	const char *version;
	size_t link_size;
	size_t queue_size;
	const char *vectors[2];
	const char *const *counters;
	u32 counter_count;
	const struct vshm_fault *faults;
	u32 fault_count;
	const struct net_device_ops *netdev_ops;

	int (*poll)(struct napi_struct *napi, int budget);
	int (*setup)(struct vshm_link *link);
	void (*free_queue)(struct vshm_queue *queue);
	void (*start_queue)(struct vshm_queue *queue);
	void (*stop_queue)(struct vshm_queue *queue);
	void (*slot_changed)(struct vshm_link *link);
	void (*step)(struct vshm_link *link);
	void (*close)(struct vshm_link *link);
	void (*phase_changed)(struct vshm_link *link);
	void (*refresh)(struct vshm_link *link);
};

/**
 * struct vshm_link - a link; a kind's own begins with it
 * @dev: the interface, whose private part this is
 * @registers: BAR0
 * @memory: BAR2
 * @fault: the first garbage that the data path has met since it was started, or 0
 * @want_up: the interface is up
 * @phase: changed by the work only, which also has all up to @counters to itself
 * @running: NAPI is enabled and packets flow
 * @since: when the phase began
 * @duration: how long the phase lasts at most, or 0
 * @pause: how long the last pause after garbage was
 * @not_before: when &vshm_kind.step may be called again, where a kind slows a peer down
 * @refreshed: when &vshm_kind.refresh was last called
 * @faults: how often the data path has met each kind of garbage
 * @counters: what the kind counts; both are read without a lock
 * @work: looks at slot and peer
 * @workqueue: an ordered one
 * @settled: woken when the phase has changed
 * @kind: what this kind of link does differently
 * @pdev: the device
 * @identity: the slot as it was when it was last taken in
 * @guard: watches over the control vector
 * @vectors: how many have a handler
 * @pairs: how many queues there are
 * @queues: the queues
 */
struct vshm_link {
	struct net_device *dev;
	void __iomem *registers;
	void *memory;
	u32 fault;
	bool want_up;

	enum vshm_phase phase;
	bool running;
	unsigned long since;
	unsigned long duration;
	unsigned long pause;
	unsigned long not_before;
	unsigned long refreshed;
	u64 faults[VSHM_FAULTS_MAX];
	u64 counters[VSHM_COUNTERS_MAX];
	struct delayed_work work;
	struct workqueue_struct *workqueue;
	wait_queue_head_t settled;

	const struct vshm_kind *kind;
	struct pci_dev *pdev;
	struct vshm_identity identity;
	struct vshm_guard guard;
	u32 vectors;
	u32 pairs;
	struct vshm_queue *queues[VSHM_QUEUE_PAIRS_MAX];
};

static inline struct vshm_link *vshm_link(const struct net_device *dev)
{
	return netdev_priv(dev);
}

static inline void vshm_ring_host(const struct vshm_link *link)
{
	vshm_write_doorbell(link->registers, link->identity.host << 16 | VSHM_VECTOR_CONTROL);
}

/* Garbage was met: the data path touches nothing until the work has dealt with it. */
static inline bool vshm_is_suspect(const struct vshm_link *link)
{
	return READ_ONCE(link->fault);
}

/* link.c */
void vshm_link_init(struct vshm_link *link);
void vshm_link_kick(struct vshm_link *link);
void vshm_link_up(struct vshm_link *link);
void vshm_link_leave(struct vshm_link *link);
void vshm_link_down(struct vshm_link *link);
void vshm_suspect(struct vshm_link *link, u32 fault);
void vshm_quiesce(struct vshm_link *link);
void vshm_set_phase(struct vshm_link *link, enum vshm_phase phase);
void vshm_set_phase_for(struct vshm_link *link, enum vshm_phase phase, unsigned long duration);
bool vshm_phase_is_over(const struct vshm_link *link);
void vshm_pause(struct vshm_link *link);

/* net.c */
int vshm_open(struct net_device *dev);
int vshm_stop(struct net_device *dev);
void vshm_uninit(struct net_device *dev);
void vshm_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *sum);
struct vshm_link *vshm_net_alloc(struct pci_dev *pdev, const struct vshm_identity *identity,
				 const struct vshm_kind *kind);
void vshm_net_setup(struct vshm_link *link);
void vshm_net_free(struct vshm_link *link);

/* ethtool.c */
extern const struct ethtool_ops vshm_ethtool_ops;

/* probe.c */
int vshm_link_probe(struct pci_dev *pdev, void __iomem *registers,
		    const struct vshm_identity *identity, const struct vshm_kind *kind);
void vshm_link_remove(struct vshm_link *link);

/* interrupts.c */
int vshm_request_interrupts(struct vshm_link *link);
void vshm_free_interrupts(struct vshm_link *link);

/* shm/net.c, vhost/net.c */
extern const struct vshm_kind ivd_kind;
extern const struct vshm_kind vhp_kind;

#endif /* VSHM_LINK_H */
