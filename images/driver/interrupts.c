// SPDX-License-Identifier: GPL-2.0
/* A link's interrupts: the control vector wakes the link's work, the two vectors of each queue pair
 * its NAPI.
 */
#include <linux/interrupt.h>

#include "link.h"

/* What came meanwhile is found now. Edges that came while the vectors were masked are raised again
 * by enable_irq().
 */
static void vshm_guard_unmask(struct work_struct *work)
{
	struct vshm_guard *guard = container_of(to_delayed_work(work), struct vshm_guard, unmask);
	u32 i;

	for (i = 0; i < guard->count; i++)
		enable_irq(guard->irqs[i]);
	WRITE_ONCE(guard->masked, false);
	if (!guard->napi)
		return;
	local_bh_disable();
	napi_schedule(guard->napi);
	local_bh_enable();
}

/**
 * vshm_guard_init() - set up a guard that has no vectors yet
 * @guard: the guard
 * @napi: of the queue that it watches over, or NULL
 */
void vshm_guard_init(struct vshm_guard *guard, struct napi_struct *napi)
{
	guard->napi = napi;
	vshm_set_allowance(&guard->allowance, jiffies_to_msecs(jiffies));
	INIT_DELAYED_WORK(&guard->unmask, vshm_guard_unmask);
}

/**
 * vshm_guard_useless() - count an interrupt that has brought nothing
 * @guard: the guard of its vector
 */
void vshm_guard_useless(struct vshm_guard *guard)
{
	u32 i;

	if (READ_ONCE(guard->masked))
		return;
	if (vshm_spend(&guard->allowance, jiffies_to_msecs(jiffies)))
		return;
	WRITE_ONCE(guard->masked, true);
	WRITE_ONCE(guard->limited, guard->limited + 1);
	for (i = 0; i < guard->count; i++)
		disable_irq_nosync(guard->irqs[i]);
	schedule_delayed_work(&guard->unmask, 1);
}

/**
 * vshm_guard_polled() - count a poll that had a budget
 * @guard: the queue's guard
 * @done: what the poll has done
 * @woke: whether it has started the stack's queue again
 */
void vshm_guard_polled(struct vshm_guard *guard, int done, bool woke)
{
	bool fired = READ_ONCE(guard->fired);

	/* Polls that no interrupt has asked for, such as busy ones, say nothing of the peer. */
	WRITE_ONCE(guard->fired, false);
	if (done)
		vshm_earn(&guard->allowance, done);
	else if (fired && !woke)
		vshm_guard_useless(guard);
}

static irqreturn_t vshm_control_interrupt(int irq, void *context)
{
	struct vshm_link *link = context;

	vshm_guard_useless(&link->guard);
	vshm_link_kick(link);
	return IRQ_HANDLED;
}

static irqreturn_t vshm_queue_interrupt(int irq, void *context)
{
	struct vshm_queue *queue = context;

	WRITE_ONCE(queue->guard.fired, true);
	napi_schedule_irqoff(&queue->napi);
	return IRQ_HANDLED;
}

/* Both vectors of a pair, one for each ring, are a matter of its NAPI. */
static struct vshm_queue *vshm_queue_of_vector(const struct vshm_link *link, u32 vector)
{
	return link->queues[(vector - 1) / 2];
}

static int vshm_request_interrupt(struct vshm_link *link, u32 vector, struct vshm_guard *guard,
				  irq_handler_t handler, void *context, const char *name)
{
	int irq = pci_irq_vector(link->pdev, vector);
	int ret;

	if (!name)
		return -ENOMEM;
	/* Before there is a handler that may mask it. */
	guard->irqs[guard->count++] = irq;
	ret = request_irq(irq, handler, 0, name, context);
	if (ret)
		guard->count--;
	return ret;
}

static int vshm_request_control_interrupt(struct vshm_link *link)
{
	struct device *dev = &link->pdev->dev;

	return vshm_request_interrupt(link, VSHM_VECTOR_CONTROL, &link->guard,
				      vshm_control_interrupt, link,
				      devm_kasprintf(dev, GFP_KERNEL, "%s-control",
						     pci_name(link->pdev)));
}

static int vshm_request_queue_interrupt(struct vshm_link *link, u32 vector)
{
	struct vshm_queue *queue = vshm_queue_of_vector(link, vector);
	struct device *dev = &link->pdev->dev;

	return vshm_request_interrupt(link, vector, &queue->guard, vshm_queue_interrupt, queue,
				      devm_kasprintf(dev, GFP_KERNEL, "%s-%s-%u",
						     pci_name(link->pdev),
						     link->kind->vectors[(vector - 1) % 2],
						     queue->index));
}

/* Nothing is masked any more: the control vector's handler does not run, and NAPI is disabled. */
static void vshm_stop_guards(struct vshm_link *link)
{
	u32 i;

	if (link->vectors)
		disable_irq(pci_irq_vector(link->pdev, VSHM_VECTOR_CONTROL));
	cancel_delayed_work_sync(&link->guard.unmask);
	link->guard.count = 0;
	for (i = 0; i < link->pairs; i++) {
		cancel_delayed_work_sync(&link->queues[i]->guard.unmask);
		link->queues[i]->guard.count = 0;
	}
}

/**
 * vshm_free_interrupts() - free all vectors; no handler runs after this
 * @link: the link, whose interface is down
 */
void vshm_free_interrupts(struct vshm_link *link)
{
	vshm_stop_guards(link);
	while (link->vectors) {
		u32 vector = --link->vectors;
		void *context = vector == VSHM_VECTOR_CONTROL ?
				(void *)link : vshm_queue_of_vector(link, vector);

		free_irq(pci_irq_vector(link->pdev, vector), context);
	}
	pci_free_irq_vectors(link->pdev);
}

/**
 * vshm_request_interrupts() - request the control vector and two vectors for each queue pair
 * @link: the link, with its work and queues set up
 *
 * Return: 0, or an error with no vector left requested.
 */
int vshm_request_interrupts(struct vshm_link *link)
{
	u32 vectors = VSHM_VECTORS(link->pairs);
	int ret;

	ret = pci_alloc_irq_vectors(link->pdev, vectors, vectors, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	for (; link->vectors < vectors; link->vectors++) {
		if (link->vectors == VSHM_VECTOR_CONTROL)
			ret = vshm_request_control_interrupt(link);
		else
			ret = vshm_request_queue_interrupt(link, link->vectors);
		if (ret)
			goto err_free;
	}
	return 0;

err_free:
	vshm_free_interrupts(link);
	return ret;
}
