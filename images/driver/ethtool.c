// SPDX-License-Identifier: GPL-2.0
/* What ethtool shows. Reading changes nothing. */
#include <linux/ethtool.h>

#include "link.h"

static const char vshm_link_names[][ETH_GSTRING_LEN] = {
	"runs", "starts", "stalls", "bad_heads", "bad_tails", "bad_records",
};

static const char vshm_queue_names[][ETH_GSTRING_LEN] = {
	"tx_packets", "tx_bytes", "tx_dropped",
	"tx_doorbells", "tx_doorbells_suppressed", "tx_ring_full",
	"rx_packets", "rx_bytes", "rx_dropped", "rx_bad",
	"rx_doorbells", "rx_doorbells_suppressed",
};

static void vshm_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	const struct vshm_link *link = vshm_link(dev);

	strscpy(info->driver, VSHM_NAME, sizeof(info->driver));
	strscpy(info->bus_info, pci_name(link->pdev), sizeof(info->bus_info));
	snprintf(info->fw_version, sizeof(info->fw_version), "layout %u, generation %u",
		 VSHM_REGION_VERSION, link->identity.generation);
}

static int vshm_get_sset_count(struct net_device *dev, int set)
{
	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return ARRAY_SIZE(vshm_link_names) + vshm_link(dev)->pairs * ARRAY_SIZE(vshm_queue_names);
}

static void vshm_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	u32 pairs = vshm_link(dev)->pairs;
	size_t name, i;

	if (set != ETH_SS_STATS)
		return;
	for (name = 0; name < ARRAY_SIZE(vshm_link_names); name++)
		ethtool_sprintf(&data, "%s", vshm_link_names[name]);
	for (i = 0; i < pairs; i++)
		for (name = 0; name < ARRAY_SIZE(vshm_queue_names); name++)
			ethtool_sprintf(&data, "queue_%zu_%s", i, vshm_queue_names[name]);
}

/* These two copy the counters in the order of their names, and return how many there are. */
static u32 vshm_copy_tx_stats(const struct vshm_tx_stats *stats, u64 *data)
{
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&stats->sync);
		data[0] = u64_stats_read(&stats->packets);
		data[1] = u64_stats_read(&stats->bytes);
		data[2] = u64_stats_read(&stats->dropped);
		data[3] = u64_stats_read(&stats->doorbells);
		data[4] = u64_stats_read(&stats->suppressed);
		data[5] = u64_stats_read(&stats->ring_full);
	} while (u64_stats_fetch_retry(&stats->sync, start));
	return 6;
}

static u32 vshm_copy_rx_stats(const struct vshm_rx_stats *stats, u64 *data)
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
	} while (u64_stats_fetch_retry(&stats->sync, start));
	return 6;
}

static void vshm_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	const struct vshm_link *link = vshm_link(dev);
	u32 i;

	data[0] = READ_ONCE(link->stats.runs);
	data[1] = READ_ONCE(link->stats.starts);
	data[2] = READ_ONCE(link->stats.stalls);
	for (i = 0; i < VSHM_SUSPICIONS; i++)
		data[3 + i] = READ_ONCE(link->stats.garbage[i]);
	data += ARRAY_SIZE(vshm_link_names);
	for (i = 0; i < link->pairs; i++) {
		data += vshm_copy_tx_stats(&link->queues[i].tx.stats, data);
		data += vshm_copy_rx_stats(&link->queues[i].rx.stats, data);
	}
}

static void vshm_get_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	channels->max_combined = vshm_link(dev)->pairs;
	channels->combined_count = vshm_link(dev)->pairs;
}

const struct ethtool_ops vshm_ethtool_ops = {
	.get_drvinfo = vshm_get_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_ts_info = ethtool_op_get_ts_info,
	.get_sset_count = vshm_get_sset_count,
	.get_strings = vshm_get_strings,
	.get_ethtool_stats = vshm_get_ethtool_stats,
	.get_channels = vshm_get_channels,
};
