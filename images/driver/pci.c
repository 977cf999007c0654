// SPDX-License-Identifier: GPL-2.0
/* The devices on the bus: a control page or a link, told apart; and the module. */
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/rtnetlink.h>

#include "compat.h"
#include "link.h"
#include "shared.h"

static irqreturn_t vshm_control_interrupt(int irq, void *context)
{
	vshm_link_kick(context);
	return IRQ_HANDLED;
}

static irqreturn_t vshm_queue_interrupt(int irq, void *context)
{
	struct vshm_queue *queue = context;

	napi_schedule_irqoff(&queue->napi);
	return IRQ_HANDLED;
}

/* A BAR that the firmware or the bus had no room for has no start, and the device is probed all
 * the same.
 */
static bool vshm_bars_valid(struct pci_dev *pdev)
{
	return pci_resource_start(pdev, VSHM_BAR_REGISTERS) &&
	       pci_resource_len(pdev, VSHM_BAR_REGISTERS) >= VSHM_REGISTERS_SIZE &&
	       pci_resource_start(pdev, VSHM_BAR_MEMORY) &&
	       pci_resource_len(pdev, VSHM_BAR_MEMORY) >= VSHM_REGION_MIN;
}

/* Asks the device for its id, and the control page who that is. */
static int vshm_identify(struct pci_dev *pdev, void __iomem *registers,
			 struct vshm_identity *identity)
{
	int ret = vshm_control_find(pdev, readl(registers + VSHM_IVPOSITION), identity);

	if (ret == -ESTALE) {
		/* Called off before we met it: the host waits for our word. */
		writel(identity->host << 16 | VSHM_VECTOR_CONTROL, registers + VSHM_DOORBELL);
		return -ENODEV;
	}
	if (ret)
		return ret;
	if (identity->kind != VSHM_KIND_NET)
		return -ENODEV;
	if (identity->region_size != pci_resource_len(pdev, VSHM_BAR_MEMORY))
		return dev_err_probe(&pdev->dev, -EINVAL, "BAR2 is not of the host's %llu bytes\n",
				     identity->region_size);
	return 0;
}

/* The region must say of itself what the host says of it. */
static bool vshm_region_valid(const struct vshm_region_header *header,
			      const struct vshm_identity *identity)
{
	return vshm_read(&header->magic) == VSHM_REGION_MAGIC &&
	       vshm_read16(&header->version) == VSHM_REGION_VERSION &&
	       vshm_read16(&header->header_size) == sizeof(*header) &&
	       le64_to_cpu(READ_ONCE(header->region_size)) == identity->region_size &&
	       vshm_read(&header->generation) == identity->generation &&
	       vshm_read(&header->queue_pairs) == identity->queue_pairs &&
	       vshm_read(&header->data_offset) == identity->data_offset &&
	       vshm_read(&header->ring_size) == identity->ring_size;
}

static int vshm_map_region(struct vshm_link *link)
{
	resource_size_t start = pci_resource_start(link->pdev, VSHM_BAR_MEMORY);
	u32 role = link->identity.role;
	struct vshm_side *sides;

	link->region = memremap(start, link->identity.region_size, MEMREMAP_WB);
	if (!link->region)
		return -ENOMEM;
	if (!vshm_region_valid(link->region, &link->identity)) {
		dev_err(&link->pdev->dev, "the region's header is not what the host says\n");
		memunmap(link->region);
		return -EINVAL;
	}
	/* Below 4 GiB the firmware's memory types make it uncached, whatever we ask for. */
	if (start < SZ_4G)
		dev_warn(&link->pdev->dev, "the region lies below 4 GiB: it may be uncached\n");
	sides = link->region + VSHM_PAGE_SIZE;
	link->own = &sides[role];
	link->peer = &sides[1 - role];
	link->peer_id = link->identity.peer;
	return 0;
}

static void vshm_free_interrupts(struct vshm_link *link)
{
	while (link->vectors) {
		u32 vector = --link->vectors;
		void *context = vector ? (void *)&link->queues[(vector - 1) / 2] : link;

		free_irq(pci_irq_vector(link->pdev, vector), context);
	}
	pci_free_irq_vectors(link->pdev);
}

/* Room in a ring and records in it are both a matter of the queue's NAPI. */
static int vshm_request_interrupt(struct vshm_link *link, u32 vector)
{
	static const char *const kinds[] = { "room", "data" };
	struct pci_dev *pdev = link->pdev;
	irq_handler_t handler = vshm_control_interrupt;
	void *context = link;
	const char *name;

	if (vector == VSHM_VECTOR_CONTROL) {
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-control", pci_name(pdev));
	} else {
		handler = vshm_queue_interrupt;
		context = &link->queues[(vector - 1) / 2];
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-%s-%u", pci_name(pdev),
				      kinds[vector % 2], (vector - 1) / 2);
	}
	if (!name)
		return -ENOMEM;
	return request_irq(pci_irq_vector(pdev, vector), handler, 0, name, context);
}

static int vshm_request_interrupts(struct vshm_link *link)
{
	u32 vectors = VSHM_VECTORS(link->pairs);
	struct pci_dev *pdev = link->pdev;
	int ret;

	ret = pci_alloc_irq_vectors(pdev, vectors, vectors, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	for (; link->vectors < vectors; link->vectors++) {
		ret = vshm_request_interrupt(link, link->vectors);
		if (ret)
			goto err_free;
	}
	return 0;

err_free:
	vshm_free_interrupts(link);
	return ret;
}

/* Everything that the link needs is there before the interface is registered. */
static int vshm_link_probe(struct pci_dev *pdev, void __iomem *registers,
			   const struct vshm_identity *identity)
{
	struct net_device *dev;
	struct vshm_link *link;
	int ret;

	dev = vshm_net_alloc(pdev, identity->queue_pairs);
	if (!dev)
		return -ENOMEM;
	link = vshm_link(dev);
	link->registers = registers;
	link->identity = *identity;
	ret = vshm_map_region(link);
	if (ret)
		goto err_free_netdev;
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
	pci_set_drvdata(pdev, link);
	ret = register_netdev(dev);
	if (ret)
		goto err_free_interrupts;
	/* The host may have called the link off before there was anybody to hear it. */
	vshm_link_kick(link);
	return 0;

err_free_interrupts:
	vshm_free_interrupts(link);
	cancel_delayed_work_sync(&link->work);
err_destroy_workqueue:
	destroy_workqueue(link->workqueue);
err_unmap:
	memunmap(link->region);
err_free_netdev:
	vshm_net_free(link);
	return ret;
}

static void vshm_link_remove(struct pci_dev *pdev)
{
	struct vshm_link *link = pci_get_drvdata(pdev);

	unregister_netdev(link->dev);
	vshm_free_interrupts(link);
	cancel_delayed_work_sync(&link->work);
	destroy_workqueue(link->workqueue);
	memunmap(link->region);
	pci_iounmap(pdev, link->registers);
	vshm_net_free(link);
}

static int vshm_device_probe(struct pci_dev *pdev)
{
	struct vshm_identity identity;
	void __iomem *registers;
	int ret;

	if (!vshm_bars_valid(pdev))
		return dev_err_probe(&pdev->dev, -ENODEV, "a BAR has no place, or no fit size\n");
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	ret = pci_request_regions(pdev, VSHM_NAME);
	if (ret)
		goto err_disable;
	registers = pci_iomap(pdev, VSHM_BAR_REGISTERS, 0);
	if (!registers) {
		ret = -ENOMEM;
		goto err_release;
	}
	ret = vshm_identify(pdev, registers, &identity);
	if (ret)
		goto err_unmap;
	pci_set_master(pdev);
	ret = vshm_link_probe(pdev, registers, &identity);
	if (ret)
		goto err_clear_master;
	return 0;

err_clear_master:
	pci_clear_master(pdev);
err_unmap:
	pci_iounmap(pdev, registers);
err_release:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

static int vshm_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	if (pdev->msix_cap)
		return vshm_device_probe(pdev);
	return vshm_control_is_candidate(pdev) ? vshm_control_probe(pdev) : -ENODEV;
}

static void vshm_remove(struct pci_dev *pdev)
{
	if (!pdev->msix_cap) {
		vshm_control_remove(pdev);
		return;
	}
	vshm_link_remove(pdev);
	pci_clear_master(pdev);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}

/* A guest that goes down in good order says so to its peers. */
static void vshm_shutdown(struct pci_dev *pdev)
{
	struct vshm_link *link = pci_get_drvdata(pdev);

	if (!pdev->msix_cap)
		return;
	rtnl_lock();
	dev_close(link->dev);
	rtnl_unlock();
}

static const struct pci_device_id vshm_ids[] = {
	{ PCI_DEVICE(VSHM_PCI_VENDOR, VSHM_PCI_DEVICE) },
	{ 0 }
};
MODULE_DEVICE_TABLE(pci, vshm_ids);

static struct pci_driver vshm_driver = {
	.name = VSHM_NAME,
	.id_table = vshm_ids,
	.probe = vshm_probe,
	.remove = vshm_remove,
	.shutdown = vshm_shutdown,
};
module_pci_driver(vshm_driver);

MODULE_DESCRIPTION("Network links between virtual machines through shared memory (ivshmem)");
MODULE_AUTHOR("The vpctl authors");
MODULE_LICENSE("GPL");
