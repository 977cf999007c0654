// SPDX-License-Identifier: GPL-2.0
/* A link comes and goes. */
#include <linux/io.h>
#include <linux/sizes.h>

#include "link.h"

static void *vshm_map_memory(struct pci_dev *pdev)
{
	resource_size_t start = pci_resource_start(pdev, VSHM_BAR_MEMORY);
	void *memory;

	memory = memremap(start, pci_resource_len(pdev, VSHM_BAR_MEMORY), MEMREMAP_WB);
	/* Below 4 GiB the firmware's memory types make it uncached, whatever we ask for. */
	if (memory && start < SZ_4G)
		dev_warn(&pdev->dev, "the region lies below 4 GiB: it may be uncached\n");
	return memory;
}

/**
 * vshm_link_probe() - make a network interface of a device
 * @pdev: the device, which is enabled
 * @registers: its BAR0
 * @identity: its slot
 * @kind: the kind of its link
 *
 * The link becomes the device's driver data. Everything that it needs is there before the interface
 * is registered.
 *
 * Return: 0, or an error.
 */
int vshm_link_probe(struct pci_dev *pdev, void __iomem *registers,
		    const struct vshm_identity *identity, const struct vshm_kind *kind)
{
	struct vshm_link *link;
	int ret;

	link = vshm_net_alloc(pdev, identity, kind);
	if (!link)
		return -ENOMEM;
	link->registers = registers;
	link->memory = vshm_map_memory(pdev);
	if (!link->memory) {
		ret = -ENOMEM;
		goto err_free_netdev;
	}
	ret = kind->setup(link);
	if (ret)
		goto err_unmap;
	vshm_net_setup(link);
	vshm_link_init(link);
	link->workqueue = alloc_ordered_workqueue("vshm-%s", 0, pci_name(pdev));
	if (!link->workqueue) {
		ret = -ENOMEM;
		goto err_unmap;
	}
	ret = vshm_request_interrupts(link);
	if (ret)
		goto err_destroy_workqueue;
	ret = register_netdev(link->dev);
	if (ret)
		goto err_free_interrupts;
	pci_set_drvdata(pdev, link);
	/* The host may have called the link off before its interrupts had handlers. */
	vshm_link_kick(link);
	return 0;

err_free_interrupts:
	vshm_free_interrupts(link);
	cancel_delayed_work_sync(&link->work);
err_destroy_workqueue:
	destroy_workqueue(link->workqueue);
err_unmap:
	memunmap(link->memory);
err_free_netdev:
	vshm_net_free(link);
	return ret;
}

/**
 * vshm_link_remove() - undo vshm_link_probe()
 * @link: the link
 *
 * The interface goes first, and with it the connection: peer and host know before anything is
 * unmapped.
 */
void vshm_link_remove(struct vshm_link *link)
{
	unregister_netdev(link->dev);
	vshm_free_interrupts(link);
	cancel_delayed_work_sync(&link->work);
	destroy_workqueue(link->workqueue);
	memunmap(link->memory);
	vshm_net_free(link);
}
