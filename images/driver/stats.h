/* SPDX-License-Identifier: GPL-2.0 */
/* What queues count, for links of every kind. */
#ifndef VSHM_STATS_H
#define VSHM_STATS_H

#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/u64_stats_sync.h>

/* Counted by one writer each (the holder of the transmit lock, or NAPI); reading changes
 * nothing.
 */
struct vshm_tx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t dropped;
	u64_stats_t doorbells;
	u64_stats_t suppressed;
	u64_stats_t repeated;	/* doorbells, since the peer did not hear the first one */
	u64_stats_t ring_full;	/* the stack's queue was stopped */
	struct u64_stats_sync sync;
};

struct vshm_rx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t dropped;
	u64_stats_t bad;		/* packets, not what the peer wrote about them */
	u64_stats_t doorbells;
	u64_stats_t suppressed;
	u64_stats_t repeated;	/* doorbells, since the peer did not hear the first one */
	struct u64_stats_sync sync;
};

/* How many the queue names are, and how many numbers vshm_copy_stats() copies. */
#define VSHM_QUEUE_STATS	14u

static inline void vshm_count(struct u64_stats_sync *sync, u64_stats_t *counter)
{
	u64_stats_update_begin(sync);
	u64_stats_inc(counter);
	u64_stats_update_end(sync);
}

/* stats.c */
void vshm_add_stats(const struct vshm_tx_stats *tx, const struct vshm_rx_stats *rx,
		    struct rtnl_link_stats64 *sum);
void vshm_name_stats(u32 pairs, u8 **names);
void vshm_copy_stats(const struct vshm_tx_stats *tx, const struct vshm_rx_stats *rx, u64 *numbers);

#endif /* VSHM_STATS_H */
