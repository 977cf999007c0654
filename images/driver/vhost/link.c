// SPDX-License-Identifier: GPL-2.0
/* The connection: which phase follows from what the host says. docs/shared-memory-layout.md has who
 * waits for whom.
 */
#include <linux/jiffies.h>

#include "access.h"
#include "vhost.h"

/* How long the host has to confirm that it has heard of our going off. */
#define VHP_CONFIRM		HZ

static void vhp_write_answer(struct vhp_link *vhp, enum vshm_answer_state state)
{
	vhp->request = vshm_answer(&vhp->base.identity, state, vhp->sequence, vhp->accepted);
}

static void vhp_answer(struct vhp_link *vhp, enum vshm_answer_state state)
{
	vhp_write_answer(vhp, state);
	vshm_ring_host(&vhp->base);
}

/* The peer may have missed completions while the link was off, or its doorbells were old ones. */
static void vhp_ring_all(struct vhp_link *vhp)
{
	u32 i;

	for (i = 0; i < vhp->base.pairs; i++) {
		struct vhp_queue *queue = vhp_queue(vhp->base.queues[i]);

		vshm_write_doorbell(vhp->base.registers, queue->tx.doorbell);
		vshm_write_doorbell(vhp->base.registers, queue->rx.doorbell);
	}
}

/* The interface is up and the slot on. */
static void vhp_connect(struct vhp_link *vhp)
{
	struct vshm_link *link = &vhp->base;

	if (vhp_read_peer(vhp)) {
		vhp_answer(vhp, VSHM_ANSWER_ON);
		/* pairs with the host's: off, then a look at our answer. One of us sees the
		 * other.
		 */
		vshm_full_barrier();
		if (vshm_control_is_off(&link->identity)) {
			vshm_link_kick(link);
			return;
		}
		link->counters[VHP_CONNECTS]++;
		vshm_set_phase(link, VSHM_PHASE_RUN);
		vhp_ring_all(vhp);
		return;
	}
	link->counters[VHP_BAD_SLOTS]++;
	if (net_ratelimit())
		netdev_warn(link->dev, "the host's slot has rings or regions that cannot be\n");
	link->pause = VSHM_PAUSE_MAX;
	vshm_set_phase_for(link, VSHM_PHASE_PAUSE, link->pause);
}

/* Doorbells that were changed under way: what was rung by the old ones may have been lost. */
static void vhp_check_doorbells(struct vhp_link *vhp)
{
	if (vshm_read(&vhp->base.identity.slot->sequence) == vhp->sequence)
		return;
	vhp_read_doorbells(vhp);
	/* The host forgets the old ones at our answer. By then the data path has rung every one
	 * that it had read.
	 */
	synchronize_net();
	vhp->base.counters[VHP_DOORBELL_CHANGES]++;
	vhp_answer(vhp, VSHM_ANSWER_ON);
	vhp_ring_all(vhp);
}

void vhp_phase_changed(struct vshm_link *link)
{
	/* The host is rung afterwards, here and as often as it asks. */
	if (link->phase == VSHM_PHASE_OFF)
		vhp_write_answer(vhp_link(link), VSHM_ANSWER_OFF);
}

void vhp_refresh(struct vshm_link *link)
{
	u32 i;

	if (link->phase != VSHM_PHASE_RUN)
		return;
	for (i = 0; i < link->pairs; i++) {
		struct vhp_queue *queue = vhp_queue(link->queues[i]);

		if (vhp_tx_refresh(queue))
			link->counters[VHP_STALLS]++;
		WRITE_ONCE(queue->rx.refresh, true);
	}
}

void vhp_close(struct vshm_link *link)
{
	struct vhp_link *vhp = vhp_link(link);
	bool confirmed = vshm_acquire(&link->identity.slot->confirmed) == vhp->request;

	switch (link->phase) {
	case VSHM_PHASE_RUN:
		vshm_set_phase_for(link, VSHM_PHASE_CLOSING, VHP_CONFIRM);
		vhp_answer(vhp, VSHM_ANSWER_OFF);
		break;
	case VSHM_PHASE_CLOSING:
		if (!confirmed && vshm_phase_is_over(link))
			netdev_warn(link->dev, "the host does not confirm that the link is off\n");
		else if (!confirmed)
			break;
		vshm_set_phase(link, VSHM_PHASE_DOWN);
		break;
	case VSHM_PHASE_PAUSE:
		vshm_set_phase(link, VSHM_PHASE_DOWN);
		break;
	case VSHM_PHASE_INIT:
	case VSHM_PHASE_READY:
	case VSHM_PHASE_DOWN:
	case VSHM_PHASE_OFF:
		break;
	}
}

void vhp_step(struct vshm_link *link)
{
	struct vhp_link *vhp = vhp_link(link);

	switch (link->phase) {
	case VSHM_PHASE_DOWN:
	case VSHM_PHASE_CLOSING:
		vhp_connect(vhp);
		break;
	case VSHM_PHASE_PAUSE:
		if (vshm_phase_is_over(link))
			vhp_connect(vhp);
		break;
	case VSHM_PHASE_RUN:
		if (vshm_is_suspect(link)) {
			vshm_pause(link);
			vhp_answer(vhp, VSHM_ANSWER_OFF);
			break;
		}
		vhp_check_doorbells(vhp);
		break;
	case VSHM_PHASE_INIT:
	case VSHM_PHASE_READY:
	case VSHM_PHASE_OFF:
		break;
	}
}

void vhp_withdraw(struct vhp_link *vhp)
{
	if (vshm_read(&vhp->base.identity.slot->answer.state) == VSHM_ANSWER_ON)
		vhp_answer(vhp, VSHM_ANSWER_OFF);
}
