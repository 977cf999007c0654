/* SPDX-License-Identifier: GPL-2.0 */
/* A device that a slot of the control page knows, whatever the kind of its link. */
#ifndef VSHM_DEVICE_H
#define VSHM_DEVICE_H

#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/workqueue.h>

#include "control.h"
#include "guard.h"
#include "pci.h"

struct vshm_device;

/* What a kind of link does when its device comes and goes. */
struct vshm_kind_ops {
	int (*probe)(struct vshm_device *device);
	void (*remove)(struct vshm_device *device);
	void (*shutdown)(struct vshm_device *device);
	/* Asks the link to go off, without a wait; NULL where shutdown has nothing to wait for. */
	void (*leave)(struct vshm_device *device);
	/* The machine goes to sleep, and is back. */
	void (*suspend)(struct vshm_device *device);
	void (*resume)(struct vshm_device *device);
	struct net_device *(*interface)(const struct vshm_device *device);
};

struct vshm_device {
	struct pci_dev *pdev;
	void __iomem *registers;
	struct vshm_identity identity;
	const struct vshm_kind_ops *ops;
	void *link;			/* the kind's own */
	u32 vectors;			/* that have a handler */
};

/* Watches over the vectors of a queue pair, or over the control vector: when they bring nothing too
 * often they are masked for a moment. Its user is NAPI, or the control vector's handler.
 */
struct vshm_guard {
	unsigned int irqs[2];
	u32 count;
	struct napi_struct *napi;	/* to be scheduled after the moment, or NULL */
	bool fired;			/* there was an interrupt since the last poll */
	bool masked;
	struct vshm_allowance allowance;
	u64 limited;			/* how often they were masked */
	struct delayed_work unmask;
};

/* What to do with one interrupt vector. */
struct vshm_vector {
	irq_handler_t handler;
	void *context;
	struct vshm_guard *guard;
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
void vshm_guard_init(struct vshm_guard *guard, struct napi_struct *napi);
/* An interrupt brought nothing. */
void vshm_guard_useless(struct vshm_guard *guard);
/* The end of a poll that had a budget: what it has done, and whether it has started the stack's
 * queue again.
 */
void vshm_guard_polled(struct vshm_guard *guard, int done, bool woke);

static inline void vshm_guard_fired(struct vshm_guard *guard)
{
	WRITE_ONCE(guard->fired, true);
}

/* The kinds: shm/probe.c, vhost/probe.c */
extern const struct vshm_kind_ops ivd_ops;
extern const struct vshm_kind_ops vhp_ops;

static inline void vshm_write_doorbell(void __iomem *registers, u32 doorbell)
{
	/* writel orders what was written to memory before it */
	writel(doorbell, registers + VSHM_DOORBELL);
}

#endif /* VSHM_DEVICE_H */
