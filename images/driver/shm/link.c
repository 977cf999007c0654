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
#define IVD_LOOK_AGAIN		HZ
#define IVD_STALL_LOOKS		4

/* The pause after garbage. A link that ran well meanwhile begins with the short one again. */
#define IVD_PAUSE_MIN		(HZ / 10)
#define IVD_PAUSE_MAX		(2 * HZ)
#define IVD_RUNS_WELL		(10 * HZ)

/* A peer that starts again and again gets no more of this side's time than this. */
#define IVD_BURST		32		/* changes of phase in a second */
#define IVD_BURST_PAUSE		(HZ / 10)

/* The peer's block, read once. */
struct ivd_peer {
	u32 epoch;
	u32 peer_epoch;
	enum vshm_state state;	/* VSHM_RESET also where it is no block of our peer's */
};

static const char *const ivd_phase_names[] = {
	[IVD_PHASE_DOWN] = "down",
	[IVD_PHASE_PAUSE] = "pause",
	[IVD_PHASE_INIT] = "init",
	[IVD_PHASE_READY] = "ready",
	[IVD_PHASE_RUN] = "run",
	[IVD_PHASE_OFF] = "off",
};

static const enum vshm_state ivd_published[] = {
	[IVD_PHASE_DOWN] = VSHM_RESET,
	[IVD_PHASE_PAUSE] = VSHM_RESET,
	[IVD_PHASE_INIT] = VSHM_INIT,
	[IVD_PHASE_READY] = VSHM_READY,
	[IVD_PHASE_RUN] = VSHM_RUN,
	[IVD_PHASE_OFF] = VSHM_RESET,
};

static const char *const ivd_suspicions[] = {
	[IVD_BAD_HEAD] = "a head that cannot be",
	[IVD_BAD_TAIL] = "a tail that cannot be",
	[IVD_BAD_RECORD] = "a record that cannot be",
};

static struct ivd_peer ivd_read_peer(const struct ivd_link *link)
{
	struct ivd_peer peer;

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
static void ivd_quiesce(struct ivd_link *link)
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

static void ivd_kick_napi(struct ivd_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->pairs; i++)
		napi_schedule(&link->queues[i].napi);
	local_bh_enable();
}

static void ivd_resume(struct ivd_link *link)
{
	u32 i;

	clear_bit(IVD_SUSPECT, &link->requests);
	for (i = 0; i < link->pairs; i++) {
		link->stall_looks[i] = 0;
		napi_enable(&link->queues[i].napi);
	}
	netif_tx_wake_all_queues(link->dev);
	netif_carrier_on(link->dev);
	/* Interrupts that came before are lost: whatever waits is found now. */
	ivd_kick_napi(link);
}

/* Changes of phase beyond the burst wait. Starts of one's own, of a user or a peer in good
 * order, are never as many.
 */
static void ivd_count_change(struct ivd_link *link)
{
	if (time_after_eq(jiffies, link->burst_began + HZ)) {
		link->burst_began = jiffies;
		link->burst = 0;
	}
	if (++link->burst > IVD_BURST)
		link->not_before = jiffies + IVD_BURST_PAUSE;
}

static void ivd_set_phase(struct ivd_link *link, enum ivd_phase phase)
{
	netdev_dbg(link->dev, "%s -> %s, epochs %u and %u\n", ivd_phase_names[link->phase],
		   ivd_phase_names[phase], link->epoch, link->taken);
	if (link->phase == IVD_PHASE_RUN && phase != IVD_PHASE_RUN)
		ivd_quiesce(link);
	link->phase = phase;
	link->since = jiffies;
	ivd_count_change(link);
	vshm_publish(&link->own->state, ivd_published[phase]);
	if (phase == IVD_PHASE_RUN) {
		link->stats.runs++;
		ivd_resume(link);
	}
}

static void ivd_ring_peer(const struct ivd_link *link)
{
	if (link->peer_id)
		ivd_ring(link, link->peer_id, VSHM_VECTOR_CONTROL);
}

static void ivd_reset_rings(struct ivd_link *link)
{
	u32 i;

	for (i = 0; i < link->pairs; i++) {
		ivd_tx_reset(&link->queues[i]);
		ivd_rx_reset(&link->queues[i]);
	}
}

/* All of the block but its state. Also done again from time to time: the peer may have
 * overwritten it.
 */
static void ivd_publish_block(struct ivd_link *link)
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
static void ivd_start(struct ivd_link *link)
{
	if (link->phase != IVD_PHASE_DOWN)
		ivd_set_phase(link, IVD_PHASE_PAUSE);
	ivd_reset_rings(link);
	link->taken = 0;
	link->epoch = link->epoch + 1 ? link->epoch + 1 : 1;
	link->stats.starts++;
	ivd_publish_block(link);
	ivd_set_phase(link, IVD_PHASE_INIT);
	ivd_ring_peer(link);
}

/* The host has given us another peer, or for now none: what was agreed with the last one is over,
 * and the host may write where that one has written.
 */
static void ivd_change_peer(struct ivd_link *link)
{
	if (link->phase != IVD_PHASE_DOWN)
		ivd_set_phase(link, IVD_PHASE_PAUSE);
	vshm_control_renew(&link->identity);
	link->peer_id = link->identity.peer;
	if (link->phase != IVD_PHASE_DOWN)
		ivd_start(link);
	vshm_answer(&link->identity, VSHM_ANSWER_ON, link->identity.sequence, 0);
	ivd_ring(link, link->identity.host, VSHM_VECTOR_CONTROL);
}

static netdev_features_t ivd_forbidden(u32 taken_by_peer)
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
static void ivd_take_in(struct ivd_link *link, u32 epoch)
{
	if (link->phase == IVD_PHASE_RUN)
		ivd_quiesce(link);
	ivd_reset_rings(link);
	link->taken = epoch;
	WRITE_ONCE(link->forbidden, ivd_forbidden(vshm_read(&link->peer->features)));
	vshm_publish(&link->own->peer_epoch, epoch);
	link->phase = IVD_PHASE_INIT; /* the data path is at rest already */
	ivd_set_phase(link, IVD_PHASE_READY);
	ivd_ring_peer(link);
}

static bool ivd_has_taken_us_in(const struct ivd_link *link, const struct ivd_peer *peer)
{
	return peer->peer_epoch == link->epoch && peer->state >= VSHM_READY;
}

/* One row of the table. */
static void ivd_step(struct ivd_link *link)
{
	const struct ivd_peer peer = ivd_read_peer(link);

	switch (link->phase) {
	case IVD_PHASE_DOWN:
		ivd_start(link);
		break;
	case IVD_PHASE_PAUSE:
		if (time_after_eq(jiffies, link->since + link->pause))
			ivd_start(link);
		break;
	case IVD_PHASE_INIT:
		if (peer.state != VSHM_RESET)
			ivd_take_in(link, peer.epoch);
		break;
	case IVD_PHASE_READY:
	case IVD_PHASE_RUN:
		if (peer.state == VSHM_RESET)
			ivd_start(link);
		else if (peer.epoch != link->taken)
			ivd_take_in(link, peer.epoch);
		else if (link->phase == IVD_PHASE_RUN && peer.peer_epoch != link->epoch)
			ivd_start(link);
		else if (link->phase == IVD_PHASE_READY && ivd_has_taken_us_in(link, &peer))
			ivd_set_phase(link, IVD_PHASE_RUN);
		break;
	case IVD_PHASE_OFF:
		break;
	}
}

/* The data path stands still. If the peer has just started again, that is why, and the table
 * has a row for it.
 */
static bool ivd_is_garbage(struct ivd_link *link)
{
	struct ivd_peer peer;

	if (!ivd_link_is_suspect(link) || link->phase != IVD_PHASE_RUN)
		return false;
	peer = ivd_read_peer(link);
	return peer.epoch == link->taken && ivd_has_taken_us_in(link, &peer);
}

static void ivd_pause(struct ivd_link *link)
{
	u32 suspicion = READ_ONCE(link->suspicion);

	link->stats.garbage[suspicion]++;
	if (time_after(jiffies, link->since + IVD_RUNS_WELL))
		link->pause = IVD_PAUSE_MIN;
	else
		link->pause = min_t(unsigned long, 2 * link->pause, IVD_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->dev, "the peer has written %s; link down for %u ms\n",
			    ivd_suspicions[suspicion], jiffies_to_msecs(link->pause));
	ivd_set_phase(link, IVD_PHASE_PAUSE);
	ivd_ring_peer(link);
}

/* Once a second: what we have published is published again, and the rings are looked at unasked. */
static void ivd_refresh(struct ivd_link *link)
{
	bool stalled = false;
	u32 i;

	if (time_before(jiffies, link->refreshed + IVD_LOOK_AGAIN))
		return;
	link->refreshed = jiffies;
	ivd_publish_block(link);
	vshm_publish(&link->own->state, ivd_published[link->phase]);
	if (link->phase != IVD_PHASE_RUN)
		return;
	for (i = 0; i < link->pairs; i++) {
		if (!ivd_tx_refresh(&link->queues[i]))
			link->stall_looks[i] = 0;
		else if (++link->stall_looks[i] >= IVD_STALL_LOOKS)
			stalled = true;
	}
	ivd_kick_napi(link);
	if (stalled) {
		link->stats.stalls++;
		ivd_start(link);
	}
}

static void ivd_off(struct ivd_link *link)
{
	if (link->phase != IVD_PHASE_OFF)
		ivd_set_phase(link, IVD_PHASE_OFF);
	/* The peer is not rung: its device may be the one that goes. */
	ivd_ring(link, link->identity.host, VSHM_VECTOR_CONTROL);
}

static unsigned long ivd_look_again_after(const struct ivd_link *link)
{
	unsigned long end = link->since + link->pause;

	if (link->phase != IVD_PHASE_PAUSE)
		return IVD_LOOK_AGAIN;
	return time_before(jiffies, end) ? end - jiffies : 0;
}

static void ivd_link_work(struct work_struct *work)
{
	struct ivd_link *link = container_of(to_delayed_work(work), struct ivd_link, work);
	enum ivd_phase before = link->phase;

	if (vshm_control_is_off(&link->identity)) {
		ivd_off(link);
		return;
	}
	if (vshm_control_changed(&link->identity))
		ivd_change_peer(link);
	if (!test_bit(IVD_WANT_UP, &link->requests)) {
		if (link->phase != IVD_PHASE_DOWN) {
			ivd_set_phase(link, IVD_PHASE_DOWN);
			ivd_ring_peer(link);
		}
		return;
	}
	if (time_before(jiffies, link->not_before)) {
		queue_delayed_work(link->workqueue, &link->work, link->not_before - jiffies);
		return;
	}
	if (ivd_is_garbage(link))
		ivd_pause(link);
	else
		ivd_step(link);
	ivd_refresh(link);
	queue_delayed_work(link->workqueue, &link->work,
			   link->phase != before ? 0 : ivd_look_again_after(link));
}

void ivd_link_init(struct ivd_link *link)
{
	link->phase = IVD_PHASE_DOWN;
	link->epoch = vshm_read(&link->own->epoch);
	link->pause = IVD_PAUSE_MIN;
	link->refreshed = jiffies;
	link->burst_began = jiffies;
	link->not_before = jiffies;
	INIT_DELAYED_WORK(&link->work, ivd_link_work);
	/* An earlier boot of this guest, or an earlier driver, may have left its state there. */
	vshm_publish(&link->own->state, VSHM_RESET);
	ivd_ring_peer(link);
}

void ivd_link_kick(struct ivd_link *link)
{
	mod_delayed_work(link->workqueue, &link->work, 0);
}

void ivd_link_up(struct ivd_link *link)
{
	set_bit(IVD_WANT_UP, &link->requests);
	ivd_link_kick(link);
}

void ivd_link_down(struct ivd_link *link)
{
	clear_bit(IVD_WANT_UP, &link->requests);
	ivd_link_kick(link);
	flush_delayed_work(&link->work);
}

void ivd_link_suspect(struct ivd_link *link, enum ivd_suspicion suspicion)
{
	if (test_and_set_bit(IVD_SUSPECT, &link->requests))
		return;
	WRITE_ONCE(link->suspicion, suspicion);
	ivd_link_kick(link);
}
