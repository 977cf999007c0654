// SPDX-License-Identifier: GPL-2.0
/* A device's interrupts: one handler for each vector, as the kind of its link describes them. */
#include "device.h"

void vshm_free_interrupts(struct vshm_device *device, vshm_describe_t describe)
{
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

	if (number == VSHM_VECTOR_CONTROL)
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-control", pci_name(pdev));
	else
		name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "%s-%s-%u", pci_name(pdev),
				      vector->kind, vector->number);
	if (!name)
		return -ENOMEM;
	return request_irq(pci_irq_vector(pdev, number), vector->handler, 0, name,
			   vector->context);
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
