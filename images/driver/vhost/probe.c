// SPDX-License-Identifier: GPL-2.0
/* A device of the kind vhost-pci comes and goes. */
#include <linux/rtnetlink.h>

#include "vhost.h"

static irqreturn_t vhp_control_interrupt(int irq, void *context)
{
	struct vhp_link *link = context;

	vshm_guard_useless(&link->guard);
	vhp_link_kick(link);
	return IRQ_HANDLED;
}

static irqreturn_t vhp_queue_interrupt(int irq, void *context)
{
	struct vhp_queue *queue = context;

	vshm_guard_fired(&queue->guard);
	napi_schedule_irqoff(&queue->napi);
	return IRQ_HANDLED;
}

/* Kicks of both rings of a pair are a matter of its NAPI. */
static struct vshm_vector vhp_describe_vector(struct vshm_device *device, u32 vector)
{
	struct vhp_link *link = device->link;

	if (vector == VSHM_VECTOR_CONTROL)
		return (struct vshm_vector){
			.handler = vhp_control_interrupt,
			.context = link,
			.guard = &link->guard,
		};
	return (struct vshm_vector){
		.handler = vhp_queue_interrupt,
		.context = &link->queues[(vector - 1) / 2],
		.guard = &link->queues[(vector - 1) / 2].guard,
		.kind = vector % 2 ? "tx" : "rx",
		.number = (vector - 1) / 2,
	};
}

/* Everything that the link needs is there before the interface is registered. */
static int vhp_probe(struct vshm_device *device)
{
	struct pci_dev *pdev = device->pdev;
	struct net_device *dev;
	struct vhp_link *link;
	int ret;

	dev = vhp_net_alloc(device);
	if (!dev)
		return -ENOMEM;
	link = vhp_link(dev);
	device->link = link;
	ret = vhp_net_setup(link);
	if (ret)
		goto err_free_netdev;
	link->memory.base = vshm_map_memory(pdev);
	if (!link->memory.base) {
		ret = -ENOMEM;
		goto err_free_netdev;
	}
	vhp_link_init(link);
	link->workqueue = alloc_ordered_workqueue("vshm-%s", 0, pci_name(pdev));
	if (!link->workqueue) {
		ret = -ENOMEM;
		goto err_unmap;
	}
	ret = vshm_request_interrupts(device, VSHM_VECTORS(link->pairs), vhp_describe_vector);
	if (ret)
		goto err_destroy_workqueue;
	ret = register_netdev(dev);
	if (ret)
		goto err_free_interrupts;
	/* The host may have called the link off before its interrupts had handlers. */
	vhp_link_kick(link);
	return 0;

err_free_interrupts:
	vshm_free_interrupts(device, vhp_describe_vector);
	cancel_delayed_work_sync(&link->work);
err_destroy_workqueue:
	destroy_workqueue(link->workqueue);
err_unmap:
	memunmap(link->memory.base);
err_free_netdev:
	vhp_net_free(link);
	return ret;
}

/* The interface goes first, and with it the connection: the host knows before anything is
 * unmapped.
 */
static void vhp_remove(struct vshm_device *device)
{
	struct vhp_link *link = device->link;

	unregister_netdev(link->dev);
	vshm_free_interrupts(device, vhp_describe_vector);
	cancel_delayed_work_sync(&link->work);
	destroy_workqueue(link->workqueue);
	memunmap(link->memory.base);
	vhp_net_free(link);
}

static void vhp_shutdown(struct vshm_device *device)
{
	struct vhp_link *link = device->link;

	rtnl_lock();
	dev_close(link->dev);
	rtnl_unlock();
}

static void vhp_leave(struct vshm_device *device)
{
	vhp_link_leave(device->link);
}

/* The host knows before the machine sleeps, and what BAR2 is afterwards, after hibernation even the
 * memory of another peer, is the slot's to say: nothing is touched before that was looked at.
 */
static void vhp_suspend(struct vshm_device *device)
{
	struct vhp_link *link = device->link;

	rtnl_lock();
	vhp_link_down(link);
	rtnl_unlock();
}

static void vhp_wake(struct vshm_device *device)
{
	struct vhp_link *link = device->link;

	rtnl_lock();
	if (netif_running(link->dev))
		vhp_link_up(link);
	else
		vhp_link_kick(link);
	rtnl_unlock();
}

static struct net_device *vhp_interface(const struct vshm_device *device)
{
	const struct vhp_link *link = device->link;

	return link->dev;
}

const struct vshm_kind_ops vhp_ops = {
	.probe = vhp_probe,
	.remove = vhp_remove,
	.shutdown = vhp_shutdown,
	.leave = vhp_leave,
	.suspend = vhp_suspend,
	.resume = vhp_wake,
	.interface = vhp_interface,
};
