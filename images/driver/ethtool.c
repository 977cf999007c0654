// SPDX-License-Identifier: GPL-2.0
/* What ethtool shows. Reading changes nothing. */
#include <linux/ethtool.h>

#include "link.h"

static void vshm_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	const struct vshm_link *link = vshm_link(dev);

	strscpy(info->driver, VSHM_NAME, sizeof(info->driver));
	strscpy(info->bus_info, pci_name(link->pdev), sizeof(info->bus_info));
	snprintf(info->fw_version, sizeof(info->fw_version), "%s, generation %u",
		 link->kind->version, link->identity.generation);
}

/* What the kind counts, its kinds of garbage (0 is none), and how often interrupts were limited. */
static u32 vshm_link_stats(const struct vshm_kind *kind)
{
	return kind->counter_count + (kind->fault_count - 1) + 1;
}

static int vshm_get_sset_count(struct net_device *dev, int set)
{
	const struct vshm_link *link = vshm_link(dev);

	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return vshm_link_stats(link->kind) + link->pairs * VSHM_QUEUE_STATS;
}

static void vshm_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	const struct vshm_link *link = vshm_link(dev);
	const struct vshm_kind *kind = link->kind;
	u32 i;

	if (set != ETH_SS_STATS)
		return;
	for (i = 0; i < kind->counter_count; i++)
		ethtool_sprintf(&data, "%s", kind->counters[i]);
	for (i = 1; i < kind->fault_count; i++)
		ethtool_sprintf(&data, "%s", kind->faults[i].counter);
	ethtool_sprintf(&data, "interrupts_limited");
	vshm_name_stats(link->pairs, &data);
}

static void vshm_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	const struct vshm_link *link = vshm_link(dev);
	u64 limited = READ_ONCE(link->guard.limited);
	u32 i;

	for (i = 0; i < link->kind->counter_count; i++)
		*data++ = READ_ONCE(link->counters[i]);
	for (i = 1; i < link->kind->fault_count; i++)
		*data++ = READ_ONCE(link->faults[i]);
	for (i = 0; i < link->pairs; i++)
		limited += READ_ONCE(link->queues[i]->guard.limited);
	*data++ = limited;
	for (i = 0; i < link->pairs; i++, data += VSHM_QUEUE_STATS)
		vshm_copy_stats(&link->queues[i]->tx_stats, &link->queues[i]->rx_stats, data);
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
