/* SPDX-License-Identifier: GPL-2.0 */
/* How a poll of either kind ends. Compiles in user space too, where it is tested. */
#ifndef VSHM_POLL_H
#define VSHM_POLL_H

#ifdef __KERNEL__
#include <linux/netdevice.h>
#endif

/* The end of a poll that has done so much of its budget; returns what the poll is to return.
 *
 * `may_sleep` asks the peer for an interrupt and looks at the ring once more; it returns false
 * where there is something to do. That has to come before napi_complete_done(): from then on
 * another CPU may poll, or napi_disable() may have returned there, and neither a field of the
 * queue nor shared memory is ours any more. An interrupt that comes in between finds NAPI
 * scheduled and sets NAPI_STATE_MISSED, so that napi_complete_done() schedules it anew.
 */
static inline int vshm_end_poll(struct napi_struct *napi, int done, int budget,
				bool (*may_sleep)(struct napi_struct *napi))
{
	/* A budget of 0 is netpoll's, which wants room and nothing else. */
	if (done >= budget)
		return done;
	if (!may_sleep(napi))
		return budget;
	napi_complete_done(napi, done);
	return done;
}

#endif /* VSHM_POLL_H */
