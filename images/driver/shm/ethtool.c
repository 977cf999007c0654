// SPDX-License-Identifier: GPL-2.0
/* What ethtool shows. Reading changes nothing. */
#include <linux/ethtool.h>

#include "link.h"

static const char vshm_link_names[][ETH_GSTRING_LEN] = {
	"runs", "starts", "stalls", "bad_heads", "bad_tails", "bad_records",
	"interrupts_limited",
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
	return ARRAY_SIZE(vshm_link_names) + vshm_link(dev)->pairs * VSHM_QUEUE_STATS;
}

static void vshm_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	size_t name;

	if (set != ETH_SS_STATS)
		return;
	for (name = 0; name < ARRAY_SIZE(vshm_link_names); name++)
		ethtool_sprintf(&data, "%s", vshm_link_names[name]);
	vshm_name_stats(vshm_link(dev)->pairs, &data);
}

static void vshm_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	const struct vshm_link *link = vshm_link(dev);
	u64 limited = READ_ONCE(link->guard.limited);
	u32 i;

	data[0] = READ_ONCE(link->stats.runs);
	data[1] = READ_ONCE(link->stats.starts);
	data[2] = READ_ONCE(link->stats.stalls);
	for (i = 0; i < VSHM_SUSPICIONS; i++)
		data[3 + i] = READ_ONCE(link->stats.garbage[i]);
	for (i = 0; i < link->pairs; i++)
		limited += READ_ONCE(link->queues[i].guard.limited);
	data[3 + VSHM_SUSPICIONS] = limited;
	data += ARRAY_SIZE(vshm_link_names);
	for (i = 0; i < link->pairs; i++, data += VSHM_QUEUE_STATS)
		vshm_copy_stats(&link->queues[i].tx.stats, &link->queues[i].rx.stats, data);
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
