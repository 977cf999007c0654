// SPDX-License-Identifier: GPL-2.0
/* The handshake. One work, on an ordered queue, looks at the host's slot and the peer's block
 * and alone changes the phase; interrupts, the user and the data path only ask it to look.
 * docs/shared-memory-layout.md has the table. The work never takes the rtnl lock: its holder
 * waits for the work.
 */
#include <linux/jiffies.h>
#include <linux/netdevice.h>

#include "access.h"
#include "shm.h"

/* How often to look for what was overwritten, and for interrupts that got lost. */
#define IVD_LOOK_AGAIN		HZ

/* The pause after garbage. A link that ran well meanwhile begins with the short one again. */
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
	[VSHM_PHASE_DOWN] = "down",
	[VSHM_PHASE_PAUSE] = "pause",
	[VSHM_PHASE_INIT] = "init",
	[VSHM_PHASE_READY] = "ready",
	[VSHM_PHASE_RUN] = "run",
	[VSHM_PHASE_OFF] = "off",
};

static const enum vshm_state ivd_published[] = {
	[VSHM_PHASE_DOWN] = VSHM_RESET,
	[VSHM_PHASE_PAUSE] = VSHM_RESET,
	[VSHM_PHASE_INIT] = VSHM_INIT,
	[VSHM_PHASE_READY] = VSHM_READY,
	[VSHM_PHASE_RUN] = VSHM_RUN,
	[VSHM_PHASE_OFF] = VSHM_RESET,
};

static struct ivd_peer ivd_read_peer(const struct ivd_link *link)
{
	struct ivd_peer peer;

	peer.peer_epoch = vshm_acquire(&link->peer->peer_epoch);
	peer.epoch = vshm_acquire(&link->peer->epoch);
	peer.state = vshm_acquire(&link->peer->state);
	if (peer.state > VSHM_RUN || !peer.epoch ||
	    vshm_read(&link->peer->generation) != link->base.identity.generation ||
	    vshm_read(&link->peer->ivposition) != link->peer_id)
		peer.state = VSHM_RESET;
	return peer;
}

/* No packet moves after this, and NAPI does not look at the ring. */
static void ivd_quiesce(struct ivd_link *link)
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
}

static void ivd_kick_napi(struct ivd_link *link)
{
	u32 i;

	local_bh_disable();
	for (i = 0; i < link->base.pairs; i++)
		napi_schedule(&link->base.queues[i]->napi);
	local_bh_enable();
}

static void ivd_resume(struct ivd_link *link)
{
	u32 i;

	WRITE_ONCE(link->base.fault, 0);
	for (i = 0; i < link->base.pairs; i++) {
		ivd_queue(link->base.queues[i])->tx.stall_looks = 0;
		napi_enable(&link->base.queues[i]->napi);
	}
	netif_tx_wake_all_queues(link->base.dev);
	netif_carrier_on(link->base.dev);
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

static void ivd_set_phase(struct ivd_link *link, enum vshm_phase phase)
{
	netdev_dbg(link->base.dev, "%s -> %s, epochs %u and %u\n",
		   ivd_phase_names[link->base.phase], ivd_phase_names[phase], link->epoch,
		   link->taken);
	if (link->base.phase == VSHM_PHASE_RUN && phase != VSHM_PHASE_RUN)
		ivd_quiesce(link);
	link->base.phase = phase;
	link->base.since = jiffies;
	ivd_count_change(link);
	vshm_publish(&link->own->state, ivd_published[phase]);
	if (phase == VSHM_PHASE_RUN) {
		link->base.counters[IVD_RUNS]++;
		ivd_resume(link);
	}
}

static void ivd_ring_peer(const struct ivd_link *link)
{
	if (link->peer_id)
		vshm_write_doorbell(link->base.registers,
				    link->peer_id << 16 | VSHM_VECTOR_CONTROL);
}

static void ivd_reset_rings(struct ivd_link *link)
{
	u32 i;

	for (i = 0; i < link->base.pairs; i++) {
		ivd_tx_reset(ivd_queue(link->base.queues[i]));
		ivd_rx_reset(ivd_queue(link->base.queues[i]));
	}
}

/* All of the block but its state. Also done again from time to time: the peer may have
 * overwritten it.
 */
static void ivd_publish_block(struct ivd_link *link)
{
	struct vshm_side *own = link->own;

	vshm_publish(&own->generation, link->base.identity.generation);
	vshm_publish(&own->ivposition, link->base.identity.ivposition);
	vshm_publish(&own->features, VSHM_FEATURE_CSUM | VSHM_FEATURE_TSO4 | VSHM_FEATURE_TSO6 |
				     VSHM_FEATURE_ECN);
	vshm_publish(&own->mtu, READ_ONCE(link->base.dev->mtu));
	vshm_publish(&own->peer_epoch, link->taken);
	vshm_publish(&own->epoch, link->epoch);
}

/* A new epoch, which the peer cannot take for the last one. */
static void ivd_start(struct ivd_link *link)
{
	if (link->base.phase != VSHM_PHASE_DOWN)
		ivd_set_phase(link, VSHM_PHASE_PAUSE);
	ivd_reset_rings(link);
	link->taken = 0;
	link->epoch = link->epoch + 1 ? link->epoch + 1 : 1;
	link->base.counters[IVD_STARTS]++;
	ivd_publish_block(link);
	ivd_set_phase(link, VSHM_PHASE_INIT);
	ivd_ring_peer(link);
}

/* The host has given us another peer, or for now none: what was agreed with the last one is over,
 * and the host may write where that one has written.
 */
static void ivd_change_peer(struct ivd_link *link)
{
	if (link->base.phase != VSHM_PHASE_DOWN)
		ivd_set_phase(link, VSHM_PHASE_PAUSE);
	vshm_control_renew(&link->base.identity);
	link->peer_id = link->base.identity.peer;
	if (link->base.phase != VSHM_PHASE_DOWN)
		ivd_start(link);
	vshm_answer(&link->base.identity, VSHM_ANSWER_ON, link->base.identity.sequence, 0);
	vshm_ring_host(&link->base);
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
	if (link->base.phase == VSHM_PHASE_RUN)
		ivd_quiesce(link);
	ivd_reset_rings(link);
	link->taken = epoch;
	WRITE_ONCE(link->forbidden, ivd_forbidden(vshm_read(&link->peer->features)));
	vshm_publish(&link->own->peer_epoch, epoch);
	link->base.phase = VSHM_PHASE_INIT; /* the data path is at rest already */
	ivd_set_phase(link, VSHM_PHASE_READY);
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

	switch (link->base.phase) {
	case VSHM_PHASE_DOWN:
		ivd_start(link);
		break;
	case VSHM_PHASE_PAUSE:
		if (time_after_eq(jiffies, link->base.since + link->base.pause))
			ivd_start(link);
		break;
	case VSHM_PHASE_INIT:
		if (peer.state != VSHM_RESET)
			ivd_take_in(link, peer.epoch);
		break;
	case VSHM_PHASE_READY:
	case VSHM_PHASE_RUN:
		if (peer.state == VSHM_RESET)
			ivd_start(link);
		else if (peer.epoch != link->taken)
			ivd_take_in(link, peer.epoch);
		else if (link->base.phase == VSHM_PHASE_RUN && peer.peer_epoch != link->epoch)
			ivd_start(link);
		else if (link->base.phase == VSHM_PHASE_READY && ivd_has_taken_us_in(link, &peer))
			ivd_set_phase(link, VSHM_PHASE_RUN);
		break;
	case VSHM_PHASE_CLOSING:
	case VSHM_PHASE_OFF:
		break;
	}
}

/* The data path stands still. If the peer has just started again, that is why, and the table
 * has a row for it.
 */
static bool ivd_is_garbage(struct ivd_link *link)
{
	struct ivd_peer peer;

	if (!vshm_is_suspect(&link->base) || link->base.phase != VSHM_PHASE_RUN)
		return false;
	peer = ivd_read_peer(link);
	return peer.epoch == link->taken && ivd_has_taken_us_in(link, &peer);
}

static void ivd_pause(struct ivd_link *link)
{
	u32 fault = READ_ONCE(link->base.fault);

	link->base.faults[fault]++;
	if (time_after(jiffies, link->base.since + IVD_RUNS_WELL))
		link->base.pause = VSHM_PAUSE_MIN;
	else
		link->base.pause = min_t(unsigned long, 2 * link->base.pause, VSHM_PAUSE_MAX);
	if (net_ratelimit())
		netdev_warn(link->base.dev, "the peer has written %s; link down for %u ms\n",
			    link->base.kind->faults[fault].description,
			    jiffies_to_msecs(link->base.pause));
	ivd_set_phase(link, VSHM_PHASE_PAUSE);
	ivd_ring_peer(link);
}

/* Once a second: what we have published is published again, and the rings are looked at unasked. */
static void ivd_refresh(struct ivd_link *link)
{
	bool stalled = false;
	u32 i;

	if (time_before(jiffies, link->base.refreshed + IVD_LOOK_AGAIN))
		return;
	link->base.refreshed = jiffies;
	ivd_publish_block(link);
	vshm_publish(&link->own->state, ivd_published[link->base.phase]);
	if (link->base.phase != VSHM_PHASE_RUN)
		return;
	for (i = 0; i < link->base.pairs; i++)
		stalled |= ivd_tx_refresh(ivd_queue(link->base.queues[i]));
	ivd_kick_napi(link);
	if (stalled) {
		link->base.counters[IVD_STALLS]++;
		ivd_start(link);
	}
}

static void ivd_off(struct ivd_link *link)
{
	if (link->base.phase != VSHM_PHASE_OFF)
		ivd_set_phase(link, VSHM_PHASE_OFF);
	/* The peer is not rung: its device may be the one that goes. */
	vshm_ring_host(&link->base);
}

static unsigned long ivd_look_again_after(const struct ivd_link *link)
{
	unsigned long end = link->base.since + link->base.pause;

	if (link->base.phase != VSHM_PHASE_PAUSE)
		return IVD_LOOK_AGAIN;
	return time_before(jiffies, end) ? end - jiffies : 0;
}

void ivd_link_work(struct work_struct *work)
{
	struct ivd_link *link = container_of(to_delayed_work(work), struct ivd_link,
					     base.work);
	enum vshm_phase before = link->base.phase;

	if (vshm_control_is_off(&link->base.identity)) {
		ivd_off(link);
		return;
	}
	if (vshm_control_changed(&link->base.identity))
		ivd_change_peer(link);
	if (!READ_ONCE(link->base.want_up)) {
		if (link->base.phase != VSHM_PHASE_DOWN) {
			ivd_set_phase(link, VSHM_PHASE_DOWN);
			ivd_ring_peer(link);
		}
		return;
	}
	if (time_before(jiffies, link->not_before)) {
		queue_delayed_work(link->base.workqueue, &link->base.work,
				   link->not_before - jiffies);
		return;
	}
	if (ivd_is_garbage(link))
		ivd_pause(link);
	else
		ivd_step(link);
	ivd_refresh(link);
	queue_delayed_work(link->base.workqueue, &link->base.work,
			   link->base.phase != before ? 0 : ivd_look_again_after(link));
}

/* The region must say of itself what the host says of it. */
static bool ivd_region_valid(const struct vshm_region_header *header,
			     const struct vshm_identity *identity)
{
	return vshm_read(&header->magic) == VSHM_REGION_MAGIC &&
	       vshm_read16(&header->version) == VSHM_REGION_VERSION &&
	       vshm_read16(&header->header_size) == sizeof(*header) &&
	       vshm_read64(&header->region_size) == identity->region_size &&
	       vshm_read(&header->generation) == identity->generation &&
	       vshm_read(&header->queue_pairs) == identity->queue_pairs &&
	       vshm_read(&header->data_offset) == identity->data_offset &&
	       vshm_read(&header->ring_size) == identity->ring_size;
}

int ivd_setup(struct vshm_link *link)
{
	struct vshm_side *sides = link->memory + VSHM_PAGE_SIZE;
	struct ivd_link *ivd = ivd_link(link);
	u32 role = link->identity.role;

	if (!ivd_region_valid(link->memory, &link->identity)) {
		dev_err(&link->pdev->dev, "the region's header is not what the host says\n");
		return -EINVAL;
	}
	ivd->own = &sides[role];
	ivd->peer = &sides[1 - role];
	ivd->peer_id = link->identity.peer;
	ivd->epoch = vshm_read(&ivd->own->epoch);
	ivd->burst_began = jiffies;
	ivd->not_before = jiffies;
	ivd_net_setup(ivd);
	/* An earlier boot of this guest, or an earlier driver, may have left its state there. */
	vshm_publish(&ivd->own->state, VSHM_RESET);
	ivd_ring_peer(ivd);
	return 0;
}
