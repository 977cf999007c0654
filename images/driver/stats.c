// SPDX-License-Identifier: GPL-2.0
/* Counters, read without changing them. */
#include "stats.h"

static const char vshm_queue_names[][ETH_GSTRING_LEN] = {
	"tx_packets", "tx_bytes", "tx_dropped",
	"tx_doorbells", "tx_doorbells_suppressed", "tx_doorbells_repeated", "tx_ring_full",
	"rx_packets", "rx_bytes", "rx_dropped", "rx_bad",
	"rx_doorbells", "rx_doorbells_suppressed", "rx_doorbells_repeated",
};

static void vshm_add_tx_stats(const struct vshm_tx_stats *stats, struct rtnl_link_stats64 *sum)
{
	u64 packets, bytes, dropped;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&stats->sync);
		packets = u64_stats_read(&stats->packets);
		bytes = u64_stats_read(&stats->bytes);
		dropped = u64_stats_read(&stats->dropped);
	} while (u64_stats_fetch_retry(&stats->sync, start));
	sum->tx_packets += packets;
	sum->tx_bytes += bytes;
	sum->tx_dropped += dropped;
}

static void vshm_add_rx_stats(const struct vshm_rx_stats *stats, struct rtnl_link_stats64 *sum)
{
	u64 packets, bytes, dropped, bad;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&stats->sync);
		packets = u64_stats_read(&stats->packets);
		bytes = u64_stats_read(&stats->bytes);
		dropped = u64_stats_read(&stats->dropped);
		bad = u64_stats_read(&stats->bad);
	} while (u64_stats_fetch_retry(&stats->sync, start));
	sum->rx_packets += packets;
	sum->rx_bytes += bytes;
	sum->rx_dropped += dropped;
	sum->rx_errors += bad;
	sum->rx_frame_errors += bad;
}

/**
 * vshm_add_stats() - add a queue's counters to those of its interface
 * @tx: of the queue
 * @rx: of the queue
 * @sum: of the interface
 */
void vshm_add_stats(const struct vshm_tx_stats *tx, const struct vshm_rx_stats *rx,
		    struct rtnl_link_stats64 *sum)
{
	vshm_add_tx_stats(tx, sum);
	vshm_add_rx_stats(rx, sum);
}

/**
 * vshm_name_stats() - write the names of all queues' counters
 * @pairs: how many queues there are
 * @names: where to; moved behind them
 */
void vshm_name_stats(u32 pairs, u8 **names)
{
	u32 i, name;

	BUILD_BUG_ON(ARRAY_SIZE(vshm_queue_names) != VSHM_QUEUE_STATS);
	for (i = 0; i < pairs; i++)
		for (name = 0; name < VSHM_QUEUE_STATS; name++)
			ethtool_sprintf(names, "queue_%u_%s", i, vshm_queue_names[name]);
}

static void vshm_copy_tx_stats(const struct vshm_tx_stats *stats, u64 *data)
{
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&stats->sync);
		data[0] = u64_stats_read(&stats->packets);
		data[1] = u64_stats_read(&stats->bytes);
		data[2] = u64_stats_read(&stats->dropped);
		data[3] = u64_stats_read(&stats->doorbells);
		data[4] = u64_stats_read(&stats->suppressed);
		data[5] = u64_stats_read(&stats->repeated);
		data[6] = u64_stats_read(&stats->ring_full);
	} while (u64_stats_fetch_retry(&stats->sync, start));
}

static void vshm_copy_rx_stats(const struct vshm_rx_stats *stats, u64 *data)
{
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&stats->sync);
		data[0] = u64_stats_read(&stats->packets);
		data[1] = u64_stats_read(&stats->bytes);
		data[2] = u64_stats_read(&stats->dropped);
		data[3] = u64_stats_read(&stats->bad);
		data[4] = u64_stats_read(&stats->doorbells);
		data[5] = u64_stats_read(&stats->suppressed);
		data[6] = u64_stats_read(&stats->repeated);
	} while (u64_stats_fetch_retry(&stats->sync, start));
}

/**
 * vshm_copy_stats() - copy a queue's counters, in the order of their names
 * @tx: of the queue
 * @rx: of the queue
 * @numbers: where to; there is room for VSHM_QUEUE_STATS
 */
void vshm_copy_stats(const struct vshm_tx_stats *tx, const struct vshm_rx_stats *rx, u64 *numbers)
{
	vshm_copy_tx_stats(tx, numbers);
	vshm_copy_rx_stats(rx, numbers + VSHM_QUEUE_STATS / 2);
}
