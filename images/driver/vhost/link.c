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
#define VHP_PAUSE_MIN		(HZ / 10)
#define VHP_PAUSE_MAX		(2 * HZ)
#define VHP_RUNS_WELL		(10 * HZ)

static const char *const vhp_phase_names[] = {
	[VHP_PHASE_DOWN] = "down",
	[VHP_PHASE_PAUSE] = "pause",
	[VHP_PHASE_RUN] = "run",
	[VHP_PHASE_CLOSING] = "closing",
	[VHP_PHASE_OFF] = "off",
};

static const char *const vhp_faults[] = {
	[VHP_BAD_AVAIL] = "an available index that cannot be",
	[VHP_BAD_CHAIN] = "a chain of descriptors that cannot be",
	[VHP_BAD_INDIRECT] = "an indirect table that cannot be",
	[VHP_BAD_ADDRESS] = "a descriptor outside of its memory",
	[VHP_BAD_DIRECTION] = "a descriptor for the wrong direction",
	[VHP_FOREIGN_USED] = "a used index that is not ours",
};

static void vhp_ring_host(const struct vhp_link *link)
{
	vshm_write_doorbell(link->registers, link->identity.host << 16 | VSHM_VECTOR_CONTROL);
}

static void vhp_answer(struct vhp_link *link, enum vshm_answer_state state)
{
	link->request = vshm_answer(&link->identity, state, link->sequence, link->accepted);
	vhp_ring_host(link);
}

/* Nothing touches BAR2 after this. */
static void vhp_quiesce(struct vhp_link *link)
{
	u32 i;

	netif_carrier_off(link->dev);
	/* NAPI first: a poll that is due still runs, and wakes a queue that it finds stopped. When
	 * the last poll has ended only the transmit path itself starts a queue, under the lock that
	 * netif_tx_disable() takes.
	 */
	for (i = 0; i < link->pairs; i++)
		napi_disable(&link->queues[i].napi);
	netif_tx_disable(link->dev);
	for (i = 0; i < link->pairs; i++)
		vhp_tx_finish(&link->queues[i]);
}

static void vhp_kick_napi(struct vhp_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->pairs; i++)
		napi_schedule(&link->queues[i].napi);
	local_bh_enable();
}

/* The peer may have missed completions while the link was off, or its doorbells were old ones. */
static void vhp_ring_all(struct vhp_link *link)
{
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		vshm_write_doorbell(link->registers, link->queues[i].tx.doorbell);
		vshm_write_doorbell(link->registers, link->queues[i].rx.doorbell);
	}
}

static void vhp_resume(struct vhp_link *link)
{
	u32 i;

	WRITE_ONCE(link->fault, VHP_GOOD);
	for (i = 0; i < link->pairs; i++) {
		vhp_tx_start(&link->queues[i]);
		vhp_rx_start(&link->queues[i]);
		napi_enable(&link->queues[i].napi);
	}
	netif_tx_wake_all_queues(link->dev);
	netif_carrier_on(link->dev);
	vhp_ring_all(link);
	/* Kicks that came before are lost: whatever waits is found now. */
	vhp_kick_napi(link);
}

static void vhp_set_phase(struct vhp_link *link, enum vhp_phase phase)
{
	netdev_dbg(link->dev, "%s -> %s\n", vhp_phase_names[link->phase], vhp_phase_names[phase]);
	if (link->phase == VHP_PHASE_RUN)
		vhp_quiesce(link);
	link->since = jiffies;
	WRITE_ONCE(link->phase, phase);
	if (phase == VHP_PHASE_RUN) {
		link->stats.connects++;
		vhp_resume(link);
	}
	wake_up_all(&link->settled);
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
		if (vshm_control_is_off(&link->identity))
			vhp_link_kick(link);
		else
			vhp_set_phase(link, VHP_PHASE_RUN);
		return;
	}
	link->stats.bad_slots++;
	if (net_ratelimit())
		netdev_warn(link->dev, "the host's slot has rings or regions that cannot be\n");
	link->pause = VHP_PAUSE_MAX;
	vhp_set_phase(link, VHP_PHASE_PAUSE);
}

/* The data path has met garbage, and stands still. */
static void vhp_pause(struct vhp_link *link)
{
	u32 fault = READ_ONCE(link->fault);

	link->stats.faults[fault]++;
	if (time_after(jiffies, link->since + VHP_RUNS_WELL))
		link->pause = VHP_PAUSE_MIN;
	else
		link->pause = min_t(unsigned long, 2 * link->pause, VHP_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->dev, "the peer has written %s; link down for %u ms\n",
			    vhp_faults[fault], jiffies_to_msecs(link->pause));
	vhp_set_phase(link, VHP_PHASE_PAUSE);
	vhp_answer(link, VSHM_ANSWER_OFF);
}

/* Doorbells that were changed under way: what was rung by the old ones may have been lost. */
static void vhp_check_doorbells(struct vhp_link *link)
{
	if (vshm_read(&link->identity.slot->sequence) == link->sequence)
		return;
	vhp_read_doorbells(link);
	/* The host forgets the old ones at our answer. By then the data path has rung every one
	 * that it had read.
	 */
	synchronize_net();
	link->stats.doorbell_changes++;
	vhp_answer(link, VSHM_ANSWER_ON);
	vhp_ring_all(link);
}

static void vhp_refresh(struct vhp_link *link)
{
	u32 i;

	if (time_before(jiffies, link->refreshed + VHP_LOOK_AGAIN))
		return;
	link->refreshed = jiffies;
	for (i = 0; i < link->pairs; i++) {
		if (vhp_tx_refresh(&link->queues[i]))
			link->stats.stalls++;
		WRITE_ONCE(link->queues[i].rx.refresh, true);
	}
	vhp_kick_napi(link);
}

/* The host has called the link off; it is rung as often as it asks. */
static void vhp_off(struct vhp_link *link)
{
	if (link->phase == VHP_PHASE_OFF) {
		vhp_ring_host(link);
		return;
	}
	vhp_set_phase(link, VHP_PHASE_OFF);
	vhp_answer(link, VSHM_ANSWER_OFF);
}

/* The user has taken the interface down. */
static void vhp_close(struct vhp_link *link)
{
	bool confirmed = vshm_acquire(&link->identity.slot->confirmed) == link->request;

	switch (link->phase) {
	case VHP_PHASE_RUN:
		vhp_set_phase(link, VHP_PHASE_CLOSING);
		vhp_answer(link, VSHM_ANSWER_OFF);
		break;
	case VHP_PHASE_CLOSING:
		if (!confirmed && time_after_eq(jiffies, link->since + VHP_CONFIRM))
			netdev_warn(link->dev, "the host does not confirm that the link is off\n");
		else if (!confirmed)
			break;
		vhp_set_phase(link, VHP_PHASE_DOWN);
		break;
	case VHP_PHASE_PAUSE:
		vhp_set_phase(link, VHP_PHASE_DOWN);
		break;
	case VHP_PHASE_DOWN:
	case VHP_PHASE_OFF:
		break;
	}
}

static void vhp_step(struct vhp_link *link)
{
	switch (link->phase) {
	case VHP_PHASE_DOWN:
	case VHP_PHASE_CLOSING:
		vhp_connect(link);
		break;
	case VHP_PHASE_PAUSE:
		if (time_after_eq(jiffies, link->since + link->pause))
			vhp_connect(link);
		break;
	case VHP_PHASE_RUN:
		if (vhp_link_is_suspect(link)) {
			vhp_pause(link);
			break;
		}
		vhp_check_doorbells(link);
		vhp_refresh(link);
		break;
	case VHP_PHASE_OFF:
		break;
	}
}

static unsigned long vhp_look_again_after(const struct vhp_link *link)
{
	unsigned long end;

	if (link->phase == VHP_PHASE_PAUSE)
		end = link->since + link->pause;
	else if (link->phase == VHP_PHASE_CLOSING)
		end = link->since + VHP_CONFIRM;
	else
		return VHP_LOOK_AGAIN;
	return time_before(jiffies, end) ? end - jiffies : 0;
}

static void vhp_link_work(struct work_struct *work)
{
	struct vhp_link *link = container_of(to_delayed_work(work), struct vhp_link, work);

	if (vshm_control_is_off(&link->identity)) {
		vhp_off(link);
		return;
	}
	if (test_bit(VHP_WANT_UP, &link->requests))
		vhp_step(link);
	else
		vhp_close(link);
	if (link->phase != VHP_PHASE_DOWN && link->phase != VHP_PHASE_OFF)
		queue_delayed_work(link->workqueue, &link->work, vhp_look_again_after(link));
}

void vhp_link_init(struct vhp_link *link)
{
	link->phase = VHP_PHASE_DOWN;
	link->pause = VHP_PAUSE_MIN;
	link->refreshed = jiffies;
	init_waitqueue_head(&link->settled);
	INIT_DELAYED_WORK(&link->work, vhp_link_work);
	/* An earlier boot of this guest, or an earlier driver, may have left its answer there. */
	if (vshm_read(&link->identity.slot->answer.state) == VSHM_ANSWER_ON)
		vhp_answer(link, VSHM_ANSWER_OFF);
}

void vhp_link_kick(struct vhp_link *link)
{
	mod_delayed_work(link->workqueue, &link->work, 0);
}

void vhp_link_up(struct vhp_link *link)
{
	set_bit(VHP_WANT_UP, &link->requests);
	vhp_link_kick(link);
}

void vhp_link_leave(struct vhp_link *link)
{
	clear_bit(VHP_WANT_UP, &link->requests);
	vhp_link_kick(link);
}

void vhp_link_down(struct vhp_link *link)
{
	vhp_link_leave(link);
	flush_delayed_work(&link->work);
	wait_event(link->settled, READ_ONCE(link->phase) != VHP_PHASE_CLOSING);
}

void vhp_link_suspect(struct vhp_link *link, enum vhp_fault fault)
{
	if (cmpxchg(&link->fault, VHP_GOOD, fault) == VHP_GOOD)
		vhp_link_kick(link);
}
