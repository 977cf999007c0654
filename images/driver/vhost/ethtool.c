// SPDX-License-Identifier: GPL-2.0
/* What ethtool shows of a vhost-pci link. Reading changes nothing. */
#include <linux/ethtool.h>

#include "vhost.h"

static const char vhp_link_names[][ETH_GSTRING_LEN] = {
	"connects", "doorbell_changes", "stalls", "bad_slots",
	"bad_available", "bad_chains", "bad_indirects", "bad_addresses", "bad_directions",
	"foreign_used", "interrupts_limited",
};

static void vhp_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	const struct vhp_link *link = vhp_link(dev);

	strscpy(info->driver, VSHM_NAME, sizeof(info->driver));
	strscpy(info->bus_info, pci_name(link->pdev), sizeof(info->bus_info));
	snprintf(info->fw_version, sizeof(info->fw_version), "vhost-pci, generation %u",
		 link->identity.generation);
}

static int vhp_get_sset_count(struct net_device *dev, int set)
{
	if (set != ETH_SS_STATS)
		return -EOPNOTSUPP;
	return ARRAY_SIZE(vhp_link_names) + vhp_link(dev)->pairs * VSHM_QUEUE_STATS;
}

static void vhp_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	size_t name;

	if (set != ETH_SS_STATS)
		return;
	for (name = 0; name < ARRAY_SIZE(vhp_link_names); name++)
		ethtool_sprintf(&data, "%s", vhp_link_names[name]);
	vshm_name_stats(vhp_link(dev)->pairs, &data);
}

static void vhp_get_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	const struct vhp_link *link = vhp_link(dev);
	u64 limited = READ_ONCE(link->guard.limited);
	u32 i;

	BUILD_BUG_ON(ARRAY_SIZE(vhp_link_names) != 5 + VHP_FAULTS - VHP_BAD_AVAIL);
	*data++ = READ_ONCE(link->stats.connects);
	*data++ = READ_ONCE(link->stats.doorbell_changes);
	*data++ = READ_ONCE(link->stats.stalls);
	*data++ = READ_ONCE(link->stats.bad_slots);
	for (i = VHP_BAD_AVAIL; i < VHP_FAULTS; i++)
		*data++ = READ_ONCE(link->stats.faults[i]);
	for (i = 0; i < link->pairs; i++)
		limited += READ_ONCE(link->queues[i].guard.limited);
	*data++ = limited;
	for (i = 0; i < link->pairs; i++, data += VSHM_QUEUE_STATS)
		vshm_copy_stats(&link->queues[i].tx.stats, &link->queues[i].rx.stats, data);
}

static void vhp_get_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	channels->max_combined = vhp_link(dev)->pairs;
	channels->combined_count = vhp_link(dev)->pairs;
}

const struct ethtool_ops vhp_ethtool_ops = {
	.get_drvinfo = vhp_get_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_ts_info = ethtool_op_get_ts_info,
	.get_sset_count = vhp_get_sset_count,
	.get_strings = vhp_get_strings,
	.get_ethtool_stats = vhp_get_ethtool_stats,
	.get_channels = vhp_get_channels,
};
