// SPDX-License-Identifier: GPL-2.0
/* A device's interrupts: one handler for each vector, as the kind of its link describes them. */
#include "device.h"

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

void vshm_guard_init(struct vshm_guard *guard, struct napi_struct *napi)
{
	guard->napi = napi;
	vshm_set_allowance(&guard->allowance, jiffies_to_msecs(jiffies));
	INIT_DELAYED_WORK(&guard->unmask, vshm_guard_unmask);
}

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

/* Nothing is masked any more: the control vector's handler does not run, and NAPI is disabled. */
static void vshm_stop_guards(struct vshm_device *device, vshm_describe_t describe)
{
	u32 vector;

	if (device->vectors)
		disable_irq(pci_irq_vector(device->pdev, VSHM_VECTOR_CONTROL));
	for (vector = 0; vector < device->vectors; vector++) {
		struct vshm_guard *guard = describe(device, vector).guard;

		cancel_delayed_work_sync(&guard->unmask);
		guard->count = 0;
	}
}

void vshm_free_interrupts(struct vshm_device *device, vshm_describe_t describe)
{
	vshm_stop_guards(device, describe);
	while (device->vectors) {
		u32 vector = --device->vectors;

		free_irq(pci_irq_vector(device->pdev, vector), describe(device, vector).context);
	}
	pci_free_irq_vectors(device->pdev);
}

static int vshm_request_interrupt(struct vshm_device *device, u32 number,
				  const struct vshm_vector *vector)
{
	struct pci_dev *pdev = device->pdev;
	const char *name;
	int ret;

	if (number == VSHM_VECTOR_CONTROL)
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-control", pci_name(pdev));
	else
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-%s-%u", pci_name(pdev),
				      vector->kind, vector->number);
	if (!name)
		return -ENOMEM;
	/* Before there is a handler that may mask it. */
	vector->guard->irqs[vector->guard->count++] = pci_irq_vector(pdev, number);
	ret = request_irq(pci_irq_vector(pdev, number), vector->handler, 0, name,
			  vector->context);
	if (ret)
		vector->guard->count--;
	return ret;
}

int vshm_request_interrupts(struct vshm_device *device, u32 vectors, vshm_describe_t describe)
{
	int ret;

	ret = pci_alloc_irq_vectors(device->pdev, vectors, vectors, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	for (; device->vectors < vectors; device->vectors++) {
		struct vshm_vector vector = describe(device, device->vectors);

		ret = vshm_request_interrupt(device, device->vectors, &vector);
		if (ret)
			goto err_free;
	}
	return 0;

err_free:
	vshm_free_interrupts(device, describe);
	return ret;
}
