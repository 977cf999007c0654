/* SPDX-License-Identifier: GPL-2.0 */
/* A device that a slot of the control page knows, whatever the kind of its link. */
#ifndef VSHM_DEVICE_H
#define VSHM_DEVICE_H

#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/pci.h>

#include "control.h"
#include "pci.h"

struct vshm_device;

/* What a kind of link does when its device comes and goes. */
struct vshm_kind_ops {
	int (*probe)(struct vshm_device *device);
	void (*remove)(struct vshm_device *device);
	void (*shutdown)(struct vshm_device *device);
};

struct vshm_device {
	struct pci_dev *pdev;
	void __iomem *registers;
	struct vshm_identity identity;
	const struct vshm_kind_ops *ops;
	void *link;			/* the kind's own */
	u32 vectors;			/* that have a handler */
};

/* What to do with one interrupt vector. */
struct vshm_vector {
	irq_handler_t handler;
	void *context;
	const char *kind;		/* for its name */
	u32 number;			/* the same */
};

typedef struct vshm_vector (*vshm_describe_t)(struct vshm_device *device, u32 vector);

/* pci.c: BAR2, as a whole; NULL if that cannot be. */
void *vshm_map_memory(struct pci_dev *pdev);

/* interrupts.c */
int vshm_request_interrupts(struct vshm_device *device, u32 vectors, vshm_describe_t describe);
/* No handler runs after this. */
void vshm_free_interrupts(struct vshm_device *device, vshm_describe_t describe);

/* The kinds: probe.c, vhost_probe.c */
extern const struct vshm_kind_ops vshm_net_ops;
extern const struct vshm_kind_ops vhp_ops;

static inline void vshm_write_doorbell(void __iomem *registers, u32 doorbell)
{
	/* writel orders what was written to memory before it */
	writel(doorbell, registers + VSHM_DOORBELL);
}

#endif /* VSHM_DEVICE_H */
