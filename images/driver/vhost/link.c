// SPDX-License-Identifier: GPL-2.0
/* The connection. One work, on an ordered queue, looks at the host's slot and alone changes the
 * phase; interrupts, the user and the data path only ask it to look.
 * docs/shared-memory-layout.md says who waits for whom. The work never takes the rtnl lock: its
 * holder waits for the work.
 */
#include <linux/jiffies.h>

#include "access.h"
#include "vhost.h"

/* How often to look for interrupts that got lost, and for wishes that were overwritten. */
#define VHP_LOOK_AGAIN		HZ

/* How long the host has to confirm that it has heard of our going off. */
#define VHP_CONFIRM		HZ

/* The pause after garbage. A link that ran well meanwhile begins with the short one again. */
#define VHP_RUNS_WELL		(10 * HZ)

static const char *const vhp_phase_names[] = {
	[VSHM_PHASE_DOWN] = "down",
	[VSHM_PHASE_PAUSE] = "pause",
	[VSHM_PHASE_RUN] = "run",
	[VSHM_PHASE_CLOSING] = "closing",
	[VSHM_PHASE_OFF] = "off",
};

static void vhp_answer(struct vhp_link *link, enum vshm_answer_state state)
{
	link->request = vshm_answer(&link->base.identity, state, link->sequence, link->accepted);
	vshm_ring_host(&link->base);
}

/* Nothing touches BAR2 after this. */
static void vhp_quiesce(struct vhp_link *link)
{
	u32 i;

	netif_carrier_off(link->base.dev);
	/* NAPI first: a poll that is due still runs, and wakes a queue that it finds stopped. When
	 * the last poll has ended only the transmit path itself starts a queue, under the lock that
	 * netif_tx_disable() takes.
	 */
	for (i = 0; i < link->base.pairs; i++)
		napi_disable(&link->base.queues[i]->napi);
	netif_tx_disable(link->base.dev);
	for (i = 0; i < link->base.pairs; i++)
		vhp_tx_finish(vhp_queue(link->base.queues[i]));
}

static void vhp_kick_napi(struct vhp_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->base.pairs; i++)
		napi_schedule(&link->base.queues[i]->napi);
	local_bh_enable();
}

/* The peer may have missed completions while the link was off, or its doorbells were old ones. */
static void vhp_ring_all(struct vhp_link *link)
{
	u32 i;

	for (i = 0; i < link->base.pairs; i++) {
		struct vhp_queue *queue = vhp_queue(link->base.queues[i]);

		vshm_write_doorbell(link->base.registers, queue->tx.doorbell);
		vshm_write_doorbell(link->base.registers, queue->rx.doorbell);
	}
}

static void vhp_resume(struct vhp_link *link)
{
	u32 i;

	WRITE_ONCE(link->base.fault, VHP_GOOD);
	for (i = 0; i < link->base.pairs; i++) {
		vhp_tx_start(vhp_queue(link->base.queues[i]));
		vhp_rx_start(vhp_queue(link->base.queues[i]));
		napi_enable(&link->base.queues[i]->napi);
	}
	netif_tx_wake_all_queues(link->base.dev);
	netif_carrier_on(link->base.dev);
	vhp_ring_all(link);
	/* Kicks that came before are lost: whatever waits is found now. */
	vhp_kick_napi(link);
}

static void vhp_set_phase(struct vhp_link *link, enum vshm_phase phase)
{
	netdev_dbg(link->base.dev, "%s -> %s\n", vhp_phase_names[link->base.phase],
		   vhp_phase_names[phase]);
	if (link->base.phase == VSHM_PHASE_RUN)
		vhp_quiesce(link);
	link->base.since = jiffies;
	WRITE_ONCE(link->base.phase, phase);
	if (phase == VSHM_PHASE_RUN) {
		link->base.counters[VHP_CONNECTS]++;
		vhp_resume(link);
	}
	wake_up_all(&link->base.settled);
}

/* The interface is up and the slot on. */
static void vhp_connect(struct vhp_link *link)
{
	if (vhp_read_peer(link)) {
		vhp_answer(link, VSHM_ANSWER_ON);
		/* pairs with the host's: off, then a look at our answer. One of us sees the
		 * other.
		 */
		vshm_full_barrier();
		if (vshm_control_is_off(&link->base.identity))
			vshm_link_kick(&link->base);
		else
			vhp_set_phase(link, VSHM_PHASE_RUN);
		return;
	}
	link->base.counters[VHP_BAD_SLOTS]++;
	if (net_ratelimit())
		netdev_warn(link->base.dev, "the host's slot has rings or regions that cannot be\n");
	link->base.pause = VSHM_PAUSE_MAX;
	vhp_set_phase(link, VSHM_PHASE_PAUSE);
}

/* The data path has met garbage, and stands still. */
static void vhp_pause(struct vhp_link *link)
{
	u32 fault = READ_ONCE(link->base.fault);

	link->base.faults[fault]++;
	if (time_after(jiffies, link->base.since + VHP_RUNS_WELL))
		link->base.pause = VSHM_PAUSE_MIN;
	else
		link->base.pause = min_t(unsigned long, 2 * link->base.pause, VSHM_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->base.dev, "the peer has written %s; link down for %u ms\n",
			    link->base.kind->faults[fault].description,
			    jiffies_to_msecs(link->base.pause));
	vhp_set_phase(link, VSHM_PHASE_PAUSE);
	vhp_answer(link, VSHM_ANSWER_OFF);
}

/* Doorbells that were changed under way: what was rung by the old ones may have been lost. */
static void vhp_check_doorbells(struct vhp_link *link)
{
	if (vshm_read(&link->base.identity.slot->sequence) == link->sequence)
		return;
	vhp_read_doorbells(link);
	/* The host forgets the old ones at our answer. By then the data path has rung every one
	 * that it had read.
	 */
	synchronize_net();
	link->base.counters[VHP_DOORBELL_CHANGES]++;
	vhp_answer(link, VSHM_ANSWER_ON);
	vhp_ring_all(link);
}

static void vhp_refresh(struct vhp_link *link)
{
	u32 i;

	if (time_before(jiffies, link->base.refreshed + VHP_LOOK_AGAIN))
		return;
	link->base.refreshed = jiffies;
	for (i = 0; i < link->base.pairs; i++) {
		struct vhp_queue *queue = vhp_queue(link->base.queues[i]);

		if (vhp_tx_refresh(queue))
			link->base.counters[VHP_STALLS]++;
		WRITE_ONCE(queue->rx.refresh, true);
	}
	vhp_kick_napi(link);
}

/* The host has called the link off; it is rung as often as it asks. */
static void vhp_off(struct vhp_link *link)
{
	if (link->base.phase == VSHM_PHASE_OFF) {
		vshm_ring_host(&link->base);
		return;
	}
	vhp_set_phase(link, VSHM_PHASE_OFF);
	vhp_answer(link, VSHM_ANSWER_OFF);
}

/* The user has taken the interface down. */
static void vhp_close(struct vhp_link *link)
{
	bool confirmed = vshm_acquire(&link->base.identity.slot->confirmed) == link->request;

	switch (link->base.phase) {
	case VSHM_PHASE_RUN:
		vhp_set_phase(link, VSHM_PHASE_CLOSING);
		vhp_answer(link, VSHM_ANSWER_OFF);
		break;
	case VSHM_PHASE_CLOSING:
		if (!confirmed && time_after_eq(jiffies, link->base.since + VHP_CONFIRM))
			netdev_warn(link->base.dev, "the host does not confirm that the link is off\n");
		else if (!confirmed)
			break;
		vhp_set_phase(link, VSHM_PHASE_DOWN);
		break;
	case VSHM_PHASE_PAUSE:
		vhp_set_phase(link, VSHM_PHASE_DOWN);
		break;
	case VSHM_PHASE_INIT:
	case VSHM_PHASE_READY:
	case VSHM_PHASE_DOWN:
	case VSHM_PHASE_OFF:
		break;
	}
}

static void vhp_step(struct vhp_link *link)
{
	switch (link->base.phase) {
	case VSHM_PHASE_DOWN:
	case VSHM_PHASE_CLOSING:
		vhp_connect(link);
		break;
	case VSHM_PHASE_PAUSE:
		if (time_after_eq(jiffies, link->base.since + link->base.pause))
			vhp_connect(link);
		break;
	case VSHM_PHASE_RUN:
		if (vshm_is_suspect(&link->base)) {
			vhp_pause(link);
			break;
		}
		vhp_check_doorbells(link);
		vhp_refresh(link);
		break;
	case VSHM_PHASE_INIT:
	case VSHM_PHASE_READY:
	case VSHM_PHASE_OFF:
		break;
	}
}

static unsigned long vhp_look_again_after(const struct vhp_link *link)
{
	unsigned long end;

	if (link->base.phase == VSHM_PHASE_PAUSE)
		end = link->base.since + link->base.pause;
	else if (link->base.phase == VSHM_PHASE_CLOSING)
		end = link->base.since + VHP_CONFIRM;
	else
		return VHP_LOOK_AGAIN;
	return time_before(jiffies, end) ? end - jiffies : 0;
}

void vhp_link_work(struct work_struct *work)
{
	struct vhp_link *link = container_of(to_delayed_work(work), struct vhp_link,
					     base.work);

	if (vshm_control_is_off(&link->base.identity)) {
		vhp_off(link);
		return;
	}
	if (READ_ONCE(link->base.want_up))
		vhp_step(link);
	else
		vhp_close(link);
	if (link->base.phase != VSHM_PHASE_DOWN && link->base.phase != VSHM_PHASE_OFF)
		queue_delayed_work(link->base.workqueue, &link->base.work,
				   vhp_look_again_after(link));
}

void vhp_withdraw(struct vhp_link *link)
{
	if (vshm_read(&link->base.identity.slot->answer.state) == VSHM_ANSWER_ON)
		vhp_answer(link, VSHM_ANSWER_OFF);
}
