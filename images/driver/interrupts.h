/* SPDX-License-Identifier: GPL-2.0 */
/* A link's interrupts, and what watches over them. */
#ifndef VSHM_INTERRUPTS_H
#define VSHM_INTERRUPTS_H

#include <linux/compiler.h>
#include <linux/netdevice.h>
#include <linux/workqueue.h>

#include "guard.h"

/**
 * struct vshm_guard - masks the vectors of a queue pair, or the control vector, for a moment
 * @irqs: the vectors
 * @count: how many those are
 * @napi: to be scheduled after the moment, or NULL
 * @fired: there was an interrupt since the last poll
 * @masked: it is such a moment
 * @allowance: how many interrupts may still bring nothing
 * @limited: how often there was such a moment
 * @unmask: ends it
 *
 * A peer can raise interrupts in a loop. Those that bring nothing are counted by NAPI, or by the
 * handler of the control vector.
 */
struct vshm_guard {
	unsigned int irqs[2];
	u32 count;
	struct napi_struct *napi;
	bool fired;
	bool masked;
	struct vshm_allowance allowance;
	u64 limited;
	struct delayed_work unmask;
};

void vshm_guard_init(struct vshm_guard *guard, struct napi_struct *napi);
void vshm_guard_useless(struct vshm_guard *guard);
void vshm_guard_polled(struct vshm_guard *guard, int done, bool woke);

#endif /* VSHM_INTERRUPTS_H */
