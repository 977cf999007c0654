/* SPDX-License-Identifier: GPL-2.0 */
/* How a poll ends. Compiles in user space too, where it is tested. */
#ifndef VSHM_POLL_H
#define VSHM_POLL_H

#ifdef __KERNEL__
#include <linux/netdevice.h>
#endif

/**
 * vshm_end_poll() - end a poll, or ask for another one
 * @napi: the queue's
 * @done: how much of its budget the poll has done
 * @budget: how much it was to do at most; 0 is netpoll's, which wants room and nothing else
 * @may_sleep: asks the peer for an interrupt and looks at the ring once more; false if there is
 *	something to do
 *
 * The last look comes before napi_complete_done(). From then on another CPU may poll, or
 * napi_disable() may have returned there, and neither a field of the queue nor shared memory is
 * ours any more. An interrupt that comes in between finds NAPI scheduled and sets
 * NAPI_STATE_MISSED, so that napi_complete_done() schedules it anew.
 *
 * Return: what the poll is to return.
 */
static inline int vshm_end_poll(struct napi_struct *napi, int done, int budget,
				bool (*may_sleep)(struct napi_struct *napi))
{
	if (done >= budget)
		return done;
	if (!may_sleep(napi))
		return budget;
	napi_complete_done(napi, done);
	return done;
}

#endif /* VSHM_POLL_H */
