// SPDX-License-Identifier: GPL-2.0
/* What ethtool shows. Reading changes nothing. */
#include <linux/ethtool.h>

#include "link.h"

static const char ivd_link_names[][ETH_GSTRING_LEN] = {
	"runs", "starts", "stalls", "bad_heads", "bad_tails", "bad_records",
	"interrupts_limited",
};

static void ivd_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	const struct ivd_link *link = ivd_link(dev);

	strscpy(info->driver, VSHM_NAME, sizeof(info->driver));
	strscpy(info->bus_info, pci_name(link->pdev), sizeof(info->bus_info));
	snprintf(info->fw_version, sizeof(info->fw_version), "layout %u, generation %u",
		 VSHM_REGION_VERSION, link->identity.generation);
}

static int ivd_get_sset_count(struct net_device *dev, int set)
{
	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return ARRAY_SIZE(ivd_link_names) + ivd_link(dev)->pairs * VSHM_QUEUE_STATS;
}

static void ivd_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	size_t name;

	if (set != ETH_SS_STATS)
		return;
	for (name = 0; name < ARRAY_SIZE(ivd_link_names); name++)
		ethtool_sprintf(&data, "%s", ivd_link_names[name]);
	vshm_name_stats(ivd_link(dev)->pairs, &data);
}

static void ivd_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	const struct ivd_link *link = ivd_link(dev);
	u64 limited = READ_ONCE(link->guard.limited);
	u32 i;

	data[0] = READ_ONCE(link->stats.runs);
	data[1] = READ_ONCE(link->stats.starts);
	data[2] = READ_ONCE(link->stats.stalls);
	for (i = 0; i < IVD_SUSPICIONS; i++)
		data[3 + i] = READ_ONCE(link->stats.garbage[i]);
	for (i = 0; i < link->pairs; i++)
		limited += READ_ONCE(link->queues[i].guard.limited);
	data[3 + IVD_SUSPICIONS] = limited;
	data += ARRAY_SIZE(ivd_link_names);
	for (i = 0; i < link->pairs; i++, data += VSHM_QUEUE_STATS)
		vshm_copy_stats(&link->queues[i].tx.stats, &link->queues[i].rx.stats, data);
}

static void ivd_get_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	channels->max_combined = ivd_link(dev)->pairs;
	channels->combined_count = ivd_link(dev)->pairs;
}

const struct ethtool_ops ivd_ethtool_ops = {
	.get_drvinfo = ivd_get_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_ts_info = ethtool_op_get_ts_info,
	.get_sset_count = ivd_get_sset_count,
	.get_strings = ivd_get_strings,
	.get_ethtool_stats = ivd_get_ethtool_stats,
	.get_channels = ivd_get_channels,
};
