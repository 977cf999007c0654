// SPDX-License-Identifier: GPL-2.0
/* A device of the kind ivshmem-doorbell comes and goes. */
#include <linux/rtnetlink.h>

#include "access.h"
#include "link.h"

static irqreturn_t ivd_control_interrupt(int irq, void *context)
{
	struct ivd_link *link = context;

	vshm_guard_useless(&link->guard);
	ivd_link_kick(link);
	return IRQ_HANDLED;
}

static irqreturn_t ivd_queue_interrupt(int irq, void *context)
{
	struct ivd_queue *queue = context;

	vshm_guard_fired(&queue->guard);
	napi_schedule_irqoff(&queue->napi);
	return IRQ_HANDLED;
}

/* Room in a ring and records in it are both a matter of the queue's NAPI. */
static struct vshm_vector ivd_describe_vector(struct vshm_device *device, u32 vector)
{
	struct ivd_link *link = device->link;

	if (vector == VSHM_VECTOR_CONTROL)
		return (struct vshm_vector){
			.handler = ivd_control_interrupt,
			.context = link,
			.guard = &link->guard,
		};
	return (struct vshm_vector){
		.handler = ivd_queue_interrupt,
		.context = &link->queues[(vector - 1) / 2],
		.guard = &link->queues[(vector - 1) / 2].guard,
		.kind = vector % 2 ? "data" : "room",
		.number = (vector - 1) / 2,
	};
}

/* The region must say of itself what the host says of it. */
static bool ivd_region_valid(const struct vshm_region_header *header,
			     const struct vshm_identity *identity)
{
	return vshm_read(&header->magic) == VSHM_REGION_MAGIC &&
	       vshm_read16(&header->version) == VSHM_REGION_VERSION &&
	       vshm_read16(&header->header_size) == sizeof(*header) &&
	       vshm_read64(&header->region_size) == identity->region_size &&
	       vshm_read(&header->generation) == identity->generation &&
	       vshm_read(&header->queue_pairs) == identity->queue_pairs &&
	       vshm_read(&header->data_offset) == identity->data_offset &&
	       vshm_read(&header->ring_size) == identity->ring_size;
}

static int ivd_map_region(struct ivd_link *link)
{
	u32 role = link->identity.role;
	struct vshm_side *sides;

	link->region = vshm_map_memory(link->pdev);
	if (!link->region)
		return -ENOMEM;
	if (!ivd_region_valid(link->region, &link->identity)) {
		dev_err(&link->pdev->dev, "the region's header is not what the host says\n");
		memunmap(link->region);
		return -EINVAL;
	}
	sides = link->region + VSHM_PAGE_SIZE;
	link->own = &sides[role];
	link->peer = &sides[1 - role];
	link->peer_id = link->identity.peer;
	return 0;
}

/* Everything that the link needs is there before the interface is registered. */
static int ivd_link_probe(struct vshm_device *device)
{
	struct pci_dev *pdev = device->pdev;
	struct net_device *dev;
	struct ivd_link *link;
	int ret;

	dev = ivd_net_alloc(device);
	if (!dev)
		return -ENOMEM;
	link = ivd_link(dev);
	device->link = link;
	ret = ivd_map_region(link);
	if (ret)
		goto err_free_netdev;
	ivd_net_setup(link);
	ivd_link_init(link);
	link->workqueue = alloc_ordered_workqueue("vshm-%s", 0, pci_name(pdev));
	if (!link->workqueue) {
		ret = -ENOMEM;
		goto err_unmap;
	}
	ret = vshm_request_interrupts(device, VSHM_VECTORS(link->pairs), ivd_describe_vector);
	if (ret)
		goto err_destroy_workqueue;
	ret = register_netdev(dev);
	if (ret)
		goto err_free_interrupts;
	/* The host may have called the link off before its interrupts had handlers. */
	ivd_link_kick(link);
	return 0;

err_free_interrupts:
	vshm_free_interrupts(device, ivd_describe_vector);
	cancel_delayed_work_sync(&link->work);
err_destroy_workqueue:
	destroy_workqueue(link->workqueue);
err_unmap:
	memunmap(link->region);
err_free_netdev:
	ivd_net_free(link);
	return ret;
}

static void ivd_link_remove(struct vshm_device *device)
{
	struct ivd_link *link = device->link;

	unregister_netdev(link->dev);
	vshm_free_interrupts(device, ivd_describe_vector);
	cancel_delayed_work_sync(&link->work);
	destroy_workqueue(link->workqueue);
	memunmap(link->region);
	ivd_net_free(link);
}

/* A guest that goes down in good order says so to its peers. */
static void ivd_link_shutdown(struct vshm_device *device)
{
	struct ivd_link *link = device->link;

	rtnl_lock();
	dev_close(link->dev);
	rtnl_unlock();
}

/* While it sleeps an end is like one whose interface is down; the peer sees it start afterwards. */
static void ivd_link_suspend(struct vshm_device *device)
{
	struct ivd_link *link = device->link;

	rtnl_lock();
	ivd_link_down(link);
	rtnl_unlock();
}

static void ivd_link_resume(struct vshm_device *device)
{
	struct ivd_link *link = device->link;

	rtnl_lock();
	if (netif_running(link->dev))
		ivd_link_up(link);
	else
		ivd_link_kick(link);
	rtnl_unlock();
}

static struct net_device *ivd_link_interface(const struct vshm_device *device)
{
	const struct ivd_link *link = device->link;

	return link->dev;
}

const struct vshm_kind_ops ivd_ops = {
	.probe = ivd_link_probe,
	.remove = ivd_link_remove,
	.shutdown = ivd_link_shutdown,
	.suspend = ivd_link_suspend,
	.resume = ivd_link_resume,
	.interface = ivd_link_interface,
};
