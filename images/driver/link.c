// SPDX-License-Identifier: GPL-2.0
/* The work of a link, which alone changes its phase. Interrupts, the user and the data path only
 * ask it to look.
 */
#include "link.h"

/**
 * vshm_link_init() - set up the work
 * @link: the link; it may be kicked when its workqueue is there
 */
void vshm_link_init(struct vshm_link *link)
{
	link->phase = VSHM_PHASE_DOWN;
	link->pause = VSHM_PAUSE_MIN;
	link->refreshed = jiffies;
	init_waitqueue_head(&link->settled);
	INIT_DELAYED_WORK(&link->work, link->kind->work);
}

/**
 * vshm_link_kick() - ask the work to look at slot and peer
 * @link: the link
 *
 * From any context.
 */
void vshm_link_kick(struct vshm_link *link)
{
	mod_delayed_work(link->workqueue, &link->work, 0);
}

/**
 * vshm_link_up() - begin to bring the link up
 * @link: the link
 */
void vshm_link_up(struct vshm_link *link)
{
	WRITE_ONCE(link->want_up, true);
	vshm_link_kick(link);
}

/**
 * vshm_link_leave() - begin vshm_link_down(), without waiting for its end
 * @link: the link
 */
void vshm_link_leave(struct vshm_link *link)
{
	WRITE_ONCE(link->want_up, false);
	vshm_link_kick(link);
}

/**
 * vshm_link_down() - bring the link down
 * @link: the link
 *
 * Sleeps. After this no packet moves and nothing but the work touches BAR2. The peer or the host
 * knows that, unless the host did not answer in time.
 */
void vshm_link_down(struct vshm_link *link)
{
	vshm_link_leave(link);
	flush_delayed_work(&link->work);
	wait_event(link->settled, READ_ONCE(link->phase) != VSHM_PHASE_CLOSING);
}

/**
 * vshm_suspect() - garbage was met
 * @link: the link
 * @fault: which, by the kind's own count; the first one is reported
 *
 * From the data path, which stands still from here on and leaves the rest to the work.
 */
void vshm_suspect(struct vshm_link *link, u32 fault)
{
	if (!cmpxchg(&link->fault, 0, fault))
		vshm_link_kick(link);
}
