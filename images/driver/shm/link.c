// SPDX-License-Identifier: GPL-2.0
/* The handshake. One work, on an ordered queue, looks at the host's slot and the peer's block
 * and alone changes the phase; interrupts, the user and the data path only ask it to look.
 * docs/shared-memory-layout.md has the table. The work never takes the rtnl lock: its holder
 * waits for the work.
 */
#include "link.h"

#include <linux/jiffies.h>
#include <linux/netdevice.h>

#include "access.h"

/* How often to look for what was overwritten, and for interrupts that got lost. */
#define VSHM_LOOK_AGAIN		HZ
#define VSHM_STALL_LOOKS	4

/* The pause after garbage. A link that ran well meanwhile begins with the short one again. */
#define VSHM_PAUSE_MIN		(HZ / 10)
#define VSHM_PAUSE_MAX		(2 * HZ)
#define VSHM_RUNS_WELL		(10 * HZ)

/* A peer that starts again and again gets no more of this side's time than this. */
#define VSHM_BURST		32		/* changes of phase in a second */
#define VSHM_BURST_PAUSE	(HZ / 10)

/* The peer's block, read once. */
struct vshm_peer {
	u32 epoch;
	u32 peer_epoch;
	enum vshm_state state;	/* VSHM_RESET also where it is no block of our peer's */
};

static const char *const vshm_phase_names[] = {
	[VSHM_PHASE_DOWN] = "down",
	[VSHM_PHASE_PAUSE] = "pause",
	[VSHM_PHASE_INIT] = "init",
	[VSHM_PHASE_READY] = "ready",
	[VSHM_PHASE_RUN] = "run",
	[VSHM_PHASE_OFF] = "off",
};

static const enum vshm_state vshm_published[] = {
	[VSHM_PHASE_DOWN] = VSHM_RESET,
	[VSHM_PHASE_PAUSE] = VSHM_RESET,
	[VSHM_PHASE_INIT] = VSHM_INIT,
	[VSHM_PHASE_READY] = VSHM_READY,
	[VSHM_PHASE_RUN] = VSHM_RUN,
	[VSHM_PHASE_OFF] = VSHM_RESET,
};

static const char *const vshm_suspicions[] = {
	[VSHM_BAD_HEAD] = "a head that cannot be",
	[VSHM_BAD_TAIL] = "a tail that cannot be",
	[VSHM_BAD_RECORD] = "a record that cannot be",
};

static struct vshm_peer vshm_read_peer(const struct vshm_link *link)
{
	struct vshm_peer peer;

	peer.peer_epoch = vshm_acquire(&link->peer->peer_epoch);
	peer.epoch = vshm_acquire(&link->peer->epoch);
	peer.state = vshm_acquire(&link->peer->state);
	if (peer.state > VSHM_RUN || !peer.epoch ||
	    vshm_read(&link->peer->generation) != link->identity.generation ||
	    vshm_read(&link->peer->ivposition) != link->peer_id)
		peer.state = VSHM_RESET;
	return peer;
}

/* No packet moves after this, and NAPI does not look at the ring. */
static void vshm_quiesce(struct vshm_link *link)
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
}

static void vshm_kick_napi(struct vshm_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->pairs; i++)
		napi_schedule(&link->queues[i].napi);
	local_bh_enable();
}

static void vshm_resume(struct vshm_link *link)
{
	u32 i;

	clear_bit(VSHM_SUSPECT, &link->requests);
	for (i = 0; i < link->pairs; i++) {
		link->stall_looks[i] = 0;
		napi_enable(&link->queues[i].napi);
	}
	netif_tx_wake_all_queues(link->dev);
	netif_carrier_on(link->dev);
	/* Interrupts that came before are lost: whatever waits is found now. */
	vshm_kick_napi(link);
}

/* Changes of phase beyond the burst wait. Starts of one's own, of a user or a peer in good
 * order, are never as many.
 */
static void vshm_count_change(struct vshm_link *link)
{
	if (time_after_eq(jiffies, link->burst_began + HZ)) {
		link->burst_began = jiffies;
		link->burst = 0;
	}
	if (++link->burst > VSHM_BURST)
		link->not_before = jiffies + VSHM_BURST_PAUSE;
}

static void vshm_set_phase(struct vshm_link *link, enum vshm_phase phase)
{
	netdev_dbg(link->dev, "%s -> %s, epochs %u and %u\n", vshm_phase_names[link->phase],
		   vshm_phase_names[phase], link->epoch, link->taken);
	if (link->phase == VSHM_PHASE_RUN && phase != VSHM_PHASE_RUN)
		vshm_quiesce(link);
	link->phase = phase;
	link->since = jiffies;
	vshm_count_change(link);
	vshm_publish(&link->own->state, vshm_published[phase]);
	if (phase == VSHM_PHASE_RUN) {
		link->stats.runs++;
		vshm_resume(link);
	}
}

static void vshm_ring_peer(const struct vshm_link *link)
{
	if (link->peer_id)
		vshm_ring(link, link->peer_id, VSHM_VECTOR_CONTROL);
}

static void vshm_reset_rings(struct vshm_link *link)
{
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		vshm_tx_reset(&link->queues[i]);
		vshm_rx_reset(&link->queues[i]);
	}
}

/* All of the block but its state. Also done again from time to time: somebody may have
 * overwritten it.
 */
static void vshm_publish_block(struct vshm_link *link)
{
	struct vshm_side *own = link->own;

	vshm_publish(&own->generation, link->identity.generation);
	vshm_publish(&own->ivposition, link->identity.ivposition);
	vshm_publish(&own->features, VSHM_FEATURE_CSUM | VSHM_FEATURE_TSO4 | VSHM_FEATURE_TSO6 |
				     VSHM_FEATURE_ECN);
	vshm_publish(&own->mtu, READ_ONCE(link->dev->mtu));
	vshm_publish(&own->peer_epoch, link->taken);
	vshm_publish(&own->epoch, link->epoch);
}

/* A new epoch, which the peer cannot take for the last one. */
static void vshm_start(struct vshm_link *link)
{
	if (link->phase != VSHM_PHASE_DOWN)
		vshm_set_phase(link, VSHM_PHASE_PAUSE);
	vshm_reset_rings(link);
	link->taken = 0;
	link->epoch = link->epoch + 1 ? link->epoch + 1 : 1;
	link->stats.starts++;
	vshm_publish_block(link);
	vshm_set_phase(link, VSHM_PHASE_INIT);
	vshm_ring_peer(link);
}

/* The host has given us another peer, or for now none: what was agreed with the last one is over,
 * and the host may write where that one has written.
 */
static void vshm_change_peer(struct vshm_link *link)
{
	if (link->phase != VSHM_PHASE_DOWN)
		vshm_set_phase(link, VSHM_PHASE_PAUSE);
	vshm_control_renew(&link->identity);
	link->peer_id = link->identity.peer;
	if (link->phase != VSHM_PHASE_DOWN)
		vshm_start(link);
	vshm_answer(&link->identity, VSHM_ANSWER_ON, link->identity.sequence, 0);
	vshm_ring(link, link->identity.host, VSHM_VECTOR_CONTROL);
}

static netdev_features_t vshm_forbidden(u32 taken_by_peer)
{
	netdev_features_t forbidden = 0;

	if (!(taken_by_peer & VSHM_FEATURE_CSUM))
		forbidden |= NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK;
	if (!(taken_by_peer & VSHM_FEATURE_TSO4))
		forbidden |= NETIF_F_TSO;
	if (!(taken_by_peer & VSHM_FEATURE_TSO6))
		forbidden |= NETIF_F_TSO6;
	if (!(taken_by_peer & VSHM_FEATURE_ECN))
		forbidden |= NETIF_F_TSO_ECN;
	return forbidden;
}

/* The peer's start is answered: from here on our indices are zero, and it may believe them. */
static void vshm_take_in(struct vshm_link *link, u32 epoch)
{
	if (link->phase == VSHM_PHASE_RUN)
		vshm_quiesce(link);
	vshm_reset_rings(link);
	link->taken = epoch;
	WRITE_ONCE(link->forbidden, vshm_forbidden(vshm_read(&link->peer->features)));
	vshm_publish(&link->own->peer_epoch, epoch);
	link->phase = VSHM_PHASE_INIT; /* the data path is at rest already */
	vshm_set_phase(link, VSHM_PHASE_READY);
	vshm_ring_peer(link);
}

static bool vshm_has_taken_us_in(const struct vshm_link *link, const struct vshm_peer *peer)
{
	return peer->peer_epoch == link->epoch && peer->state >= VSHM_READY;
}

/* One row of the table. */
static void vshm_step(struct vshm_link *link)
{
	const struct vshm_peer peer = vshm_read_peer(link);

	switch (link->phase) {
	case VSHM_PHASE_DOWN:
		vshm_start(link);
		break;
	case VSHM_PHASE_PAUSE:
		if (time_after_eq(jiffies, link->since + link->pause))
			vshm_start(link);
		break;
	case VSHM_PHASE_INIT:
		if (peer.state != VSHM_RESET)
			vshm_take_in(link, peer.epoch);
		break;
	case VSHM_PHASE_READY:
	case VSHM_PHASE_RUN:
		if (peer.state == VSHM_RESET)
			vshm_start(link);
		else if (peer.epoch != link->taken)
			vshm_take_in(link, peer.epoch);
		else if (link->phase == VSHM_PHASE_RUN && peer.peer_epoch != link->epoch)
			vshm_start(link);
		else if (link->phase == VSHM_PHASE_READY && vshm_has_taken_us_in(link, &peer))
			vshm_set_phase(link, VSHM_PHASE_RUN);
		break;
	case VSHM_PHASE_OFF:
		break;
	}
}

/* The data path stands still. If the peer has just started again, that is why, and the table
 * has a row for it.
 */
static bool vshm_is_garbage(struct vshm_link *link)
{
	struct vshm_peer peer;

	if (!vshm_link_is_suspect(link) || link->phase != VSHM_PHASE_RUN)
		return false;
	peer = vshm_read_peer(link);
	return peer.epoch == link->taken && vshm_has_taken_us_in(link, &peer);
}

static void vshm_pause(struct vshm_link *link)
{
	u32 suspicion = READ_ONCE(link->suspicion);

	link->stats.garbage[suspicion]++;
	if (time_after(jiffies, link->since + VSHM_RUNS_WELL))
		link->pause = VSHM_PAUSE_MIN;
	else
		link->pause = min_t(unsigned long, 2 * link->pause, VSHM_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->dev, "the peer has written %s; link down for %u ms\n",
			    vshm_suspicions[suspicion], jiffies_to_msecs(link->pause));
	vshm_set_phase(link, VSHM_PHASE_PAUSE);
	vshm_ring_peer(link);
}

/* Once a second: what we have published is published again, and the rings are looked at unasked. */
static void vshm_refresh(struct vshm_link *link)
{
	bool stalled = false;
	u32 i;

	if (time_before(jiffies, link->refreshed + VSHM_LOOK_AGAIN))
		return;
	link->refreshed = jiffies;
	vshm_publish_block(link);
	vshm_publish(&link->own->state, vshm_published[link->phase]);
	if (link->phase != VSHM_PHASE_RUN)
		return;
	for (i = 0; i < link->pairs; i++) {
		if (!vshm_tx_refresh(&link->queues[i]))
			link->stall_looks[i] = 0;
		else if (++link->stall_looks[i] >= VSHM_STALL_LOOKS)
			stalled = true;
	}
	vshm_kick_napi(link);
	if (stalled) {
		link->stats.stalls++;
		vshm_start(link);
	}
}

static void vshm_off(struct vshm_link *link)
{
	if (link->phase != VSHM_PHASE_OFF)
		vshm_set_phase(link, VSHM_PHASE_OFF);
	/* The peer is not rung: its device may be the one that goes. */
	vshm_ring(link, link->identity.host, VSHM_VECTOR_CONTROL);
}

static unsigned long vshm_look_again_after(const struct vshm_link *link)
{
	unsigned long end = link->since + link->pause;

	if (link->phase != VSHM_PHASE_PAUSE)
		return VSHM_LOOK_AGAIN;
	return time_before(jiffies, end) ? end - jiffies : 0;
}

static void vshm_link_work(struct work_struct *work)
{
	struct vshm_link *link = container_of(to_delayed_work(work), struct vshm_link, work);
	enum vshm_phase before = link->phase;

	if (vshm_control_is_off(&link->identity)) {
		vshm_off(link);
		return;
	}
	if (vshm_control_changed(&link->identity))
		vshm_change_peer(link);
	if (!test_bit(VSHM_WANT_UP, &link->requests)) {
		if (link->phase != VSHM_PHASE_DOWN) {
			vshm_set_phase(link, VSHM_PHASE_DOWN);
			vshm_ring_peer(link);
		}
		return;
	}
	if (time_before(jiffies, link->not_before)) {
		queue_delayed_work(link->workqueue, &link->work, link->not_before - jiffies);
		return;
	}
	if (vshm_is_garbage(link))
		vshm_pause(link);
	else
		vshm_step(link);
	vshm_refresh(link);
	queue_delayed_work(link->workqueue, &link->work,
			   link->phase != before ? 0 : vshm_look_again_after(link));
}

void vshm_link_init(struct vshm_link *link)
{
	link->phase = VSHM_PHASE_DOWN;
	link->epoch = vshm_read(&link->own->epoch);
	link->pause = VSHM_PAUSE_MIN;
	link->refreshed = jiffies;
	link->burst_began = jiffies;
	link->not_before = jiffies;
	INIT_DELAYED_WORK(&link->work, vshm_link_work);
	/* What an earlier life of this guest has left there, one that ended without a word, is
	 * over.
	 */
	vshm_publish(&link->own->state, VSHM_RESET);
	vshm_ring_peer(link);
}

void vshm_link_kick(struct vshm_link *link)
{
	mod_delayed_work(link->workqueue, &link->work, 0);
}

void vshm_link_up(struct vshm_link *link)
{
	set_bit(VSHM_WANT_UP, &link->requests);
	vshm_link_kick(link);
}

void vshm_link_down(struct vshm_link *link)
{
	clear_bit(VSHM_WANT_UP, &link->requests);
	vshm_link_kick(link);
	flush_delayed_work(&link->work);
}

void vshm_link_suspect(struct vshm_link *link, enum vshm_suspicion suspicion)
{
	if (test_and_set_bit(VSHM_SUSPECT, &link->requests))
		return;
	WRITE_ONCE(link->suspicion, suspicion);
	vshm_link_kick(link);
}
