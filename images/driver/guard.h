/* SPDX-License-Identifier: GPL-2.0 */
/* How many interrupts that bring nothing a peer may raise: it can do so in a loop, at no cost of
 * its own, and NAPI does not mask the vectors of these devices. Pure; compiles in user space too,
 * where it is tested.
 */
#ifndef VSHM_GUARD_H
#define VSHM_GUARD_H

#ifdef __KERNEL__
#include <linux/types.h>
#endif

/* What a peer in good order never gets near: each of its interrupts stands for a packet or for
 * room, so that the useless ones, of packets that an earlier poll has taken, are no more than the
 * packets. Handshakes and doorbells that change are a few at a time.
 */
#define VSHM_ALLOWANCE_BURST	256u

/* One more in each millisecond: with 100 us for an interrupt of an emulated CPU, which is the most
 * that was measured, a storm takes a tenth of one.
 */
struct vshm_allowance {
	u32 left;
	u32 refilled;		/* in ms, modulo 2^32 */
};

static inline void vshm_set_allowance(struct vshm_allowance *allowance, u32 now)
{
	allowance->left = VSHM_ALLOWANCE_BURST;
	allowance->refilled = now;
}

static inline void vshm_earn(struct vshm_allowance *allowance, u32 count)
{
	if (count > VSHM_ALLOWANCE_BURST - allowance->left)
		allowance->left = VSHM_ALLOWANCE_BURST;
	else
		allowance->left += count;
}

/* An interrupt brought nothing. False: that was one too many. */
static inline bool vshm_spend(struct vshm_allowance *allowance, u32 now)
{
	vshm_earn(allowance, now - allowance->refilled);
	allowance->refilled = now;
	if (!allowance->left)
		return false;
	allowance->left--;
	return true;
}

#endif /* VSHM_GUARD_H */
