// SPDX-License-Identifier: GPL-2.0
/* The phases of a link. One work, on an ordered queue, looks at the host's slot and at the peer,
 * and alone changes the phase. Interrupts, the user and the data path only ask it to look. The work
 * never takes the rtnl lock: its holder waits for the work.
 */
#include <linux/jiffies.h>

#include "link.h"

/* How often to look for interrupts that got lost, and for what was overwritten. */
#define VSHM_LOOK_AGAIN		HZ

/* A link that has run so long before it met garbage begins with the shortest pause again. */
#define VSHM_RUNS_WELL		(10 * HZ)

static const char *const vshm_phase_names[] = {
	[VSHM_PHASE_DOWN] = "down",
	[VSHM_PHASE_PAUSE] = "pause",
	[VSHM_PHASE_INIT] = "init",
	[VSHM_PHASE_READY] = "ready",
	[VSHM_PHASE_RUN] = "run",
	[VSHM_PHASE_CLOSING] = "closing",
	[VSHM_PHASE_OFF] = "off",
};

/* Interrupts may have got lost: what waits is found now. */
static void vshm_kick_napi(struct vshm_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->pairs; i++)
		napi_schedule(&link->queues[i]->napi);
	local_bh_enable();
}

static void vshm_resume(struct vshm_link *link)
{
	u32 i;

	WRITE_ONCE(link->fault, 0);
	link->running = true;
	for (i = 0; i < link->pairs; i++) {
		if (link->kind->start_queue)
			link->kind->start_queue(link->queues[i]);
		napi_enable(&link->queues[i]->napi);
	}
	netif_tx_wake_all_queues(link->dev);
	netif_carrier_on(link->dev);
	vshm_kick_napi(link);
}

/**
 * vshm_quiesce() - stop the data path, if it runs
 * @link: the link
 *
 * For the work. After this no packet moves, and nothing but the work touches BAR2.
 */
void vshm_quiesce(struct vshm_link *link)
{
	u32 i;

	if (!link->running)
		return;
	link->running = false;
	netif_carrier_off(link->dev);
	/* NAPI first: a poll that is due still runs, and wakes a queue that it finds stopped. When
	 * the last poll has ended only the transmit path itself starts a queue, under the lock that
	 * netif_tx_disable() takes.
	 */
	for (i = 0; i < link->pairs; i++)
		napi_disable(&link->queues[i]->napi);
	netif_tx_disable(link->dev);
	if (!link->kind->stop_queue)
		return;
	for (i = 0; i < link->pairs; i++)
		link->kind->stop_queue(link->queues[i]);
}

/**
 * vshm_set_phase_for() - change the phase, to one that lasts so long at most
 * @link: the link
 * @phase: the new phase
 * @duration: in jiffies, after which the work looks again; 0: it lasts until something happens
 *
 * For the work. The data path runs in VSHM_PHASE_RUN and in no other.
 */
void vshm_set_phase_for(struct vshm_link *link, enum vshm_phase phase, unsigned long duration)
{
	netdev_dbg(link->dev, "%s -> %s\n", vshm_phase_names[link->phase], vshm_phase_names[phase]);
	vshm_quiesce(link);
	link->since = jiffies;
	link->duration = duration;
	WRITE_ONCE(link->phase, phase);
	if (link->kind->phase_changed)
		link->kind->phase_changed(link);
	if (phase == VSHM_PHASE_RUN)
		vshm_resume(link);
	wake_up_all(&link->settled);
}

/**
 * vshm_set_phase() - change the phase
 * @link: the link
 * @phase: the new phase
 */
void vshm_set_phase(struct vshm_link *link, enum vshm_phase phase)
{
	vshm_set_phase_for(link, phase, 0);
}

/**
 * vshm_phase_is_over() - has the phase lasted as long as it may?
 * @link: the link, in a phase that was begun by vshm_set_phase_for()
 *
 * Return: true if it has.
 */
bool vshm_phase_is_over(const struct vshm_link *link)
{
	return time_after_eq(jiffies, link->since + link->duration);
}

/**
 * vshm_pause() - leave VSHM_PHASE_RUN for VSHM_PHASE_PAUSE, since the data path has met garbage
 * @link: the link
 *
 * For the work. The pause is twice the last one, unless the link has run well since then.
 */
void vshm_pause(struct vshm_link *link)
{
	u32 fault = READ_ONCE(link->fault);

	link->faults[fault]++;
	if (time_after(jiffies, link->since + VSHM_RUNS_WELL))
		link->pause = VSHM_PAUSE_MIN;
	else
		link->pause = min_t(unsigned long, 2 * link->pause, VSHM_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->dev, "the peer has written %s; link down for %u ms\n",
			    link->kind->faults[fault].description, jiffies_to_msecs(link->pause));
	vshm_set_phase_for(link, VSHM_PHASE_PAUSE, link->pause);
}

/* The host has called the link off. It is rung as often as it asks; the peer is not, since its
 * device may be the one that goes.
 */
static void vshm_off(struct vshm_link *link)
{
	if (link->phase != VSHM_PHASE_OFF)
		vshm_set_phase(link, VSHM_PHASE_OFF);
	vshm_ring_host(link);
}

static void vshm_refresh(struct vshm_link *link)
{
	if (time_before(jiffies, link->refreshed + VSHM_LOOK_AGAIN))
		return;
	link->refreshed = jiffies;
	link->kind->refresh(link);
	if (link->phase == VSHM_PHASE_RUN)
		vshm_kick_napi(link);
}

static unsigned long vshm_look_again_after(const struct vshm_link *link, enum vshm_phase before)
{
	unsigned long at;

	if (time_before(jiffies, link->not_before))
		at = link->not_before;
	else if (link->phase != before)
		at = jiffies;
	else if (link->duration)
		at = link->since + link->duration;
	else
		return VSHM_LOOK_AGAIN;
	return time_before(jiffies, at) ? at - jiffies : 0;
}

static void vshm_link_work(struct work_struct *work)
{
	struct vshm_link *link = container_of(to_delayed_work(work), struct vshm_link, work);
	enum vshm_phase before = link->phase;

	if (vshm_control_is_off(&link->identity)) {
		vshm_off(link);
		return;
	}
	if (link->kind->slot_changed && vshm_control_changed(&link->identity))
		link->kind->slot_changed(link);
	if (!READ_ONCE(link->want_up)) {
		link->kind->close(link);
	} else if (time_after_eq(jiffies, link->not_before)) {
		link->kind->step(link);
		vshm_refresh(link);
	}
	if (link->phase != VSHM_PHASE_DOWN && link->phase != VSHM_PHASE_OFF)
		queue_delayed_work(link->workqueue, &link->work,
				   vshm_look_again_after(link, before));
}

/**
 * vshm_link_init() - set up the work
 * @link: the link; it may be kicked when its workqueue is there
 */
void vshm_link_init(struct vshm_link *link)
{
	link->phase = VSHM_PHASE_DOWN;
	link->pause = VSHM_PAUSE_MIN;
	link->not_before = jiffies;
	link->refreshed = jiffies;
	init_waitqueue_head(&link->settled);
	INIT_DELAYED_WORK(&link->work, vshm_link_work);
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
