/* SPDX-License-Identifier: GPL-2.0 */
/* What queues count, for links of every kind. */
#ifndef VSHM_STATS_H
#define VSHM_STATS_H

#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/u64_stats_sync.h>

/**
 * struct vshm_tx_stats - what is counted under the transmit lock
 * @packets: sent
 * @bytes: of these packets
 * @dropped: packets that could not be sent, then or ever
 * @doorbells: rung, since the peer wanted that
 * @suppressed: not rung, since it did not
 * @repeated: rung again, since the peer did not hear the first one
 * @ring_full: how often the stack's queue was stopped
 * @sync: for readers
 */
struct vshm_tx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t dropped;
	u64_stats_t doorbells;
	u64_stats_t suppressed;
	u64_stats_t repeated;
	u64_stats_t ring_full;
	struct u64_stats_sync sync;
};

/**
 * struct vshm_rx_stats - what NAPI counts
 * @packets: delivered
 * @bytes: of these packets
 * @dropped: packets for which there was no memory
 * @bad: packets that are too short or too long, or do not fit what their sender says of them
 * @doorbells: rung, since the peer wanted that
 * @suppressed: not rung, since it did not
 * @repeated: rung again, since the peer did not hear the first one
 * @sync: for readers
 */
struct vshm_rx_stats {
	u64_stats_t packets;
	u64_stats_t bytes;
	u64_stats_t dropped;
	u64_stats_t bad;
	u64_stats_t doorbells;
	u64_stats_t suppressed;
	u64_stats_t repeated;
	struct u64_stats_sync sync;
};

/* How many the queue names are, and how many numbers vshm_copy_stats() copies. */
#define VSHM_QUEUE_STATS	14u

/**
 * vshm_count() - count one
 * @sync: of the counter's structure, whose one writer this is
 * @counter: the counter
 */
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
