// SPDX-License-Identifier: GPL-2.0
/* The handshake: which phase follows from what the peer's block says. docs/shared-memory-layout.md
 * has the table.
 */
#include <linux/jiffies.h>
#include <linux/netdevice.h>

#include "access.h"
#include "shm.h"

/* A peer that starts again and again gets no more of this side's time than this. */
#define IVD_BURST		32		/* changes of phase in a second */
#define IVD_BURST_PAUSE		(HZ / 10)

/* The peer's block, read once. */
struct ivd_peer {
	u32 epoch;
	u32 peer_epoch;
	enum vshm_state state;	/* VSHM_RESET also where it is no block of our peer's */
};

static const enum vshm_state ivd_published[] = {
	[VSHM_PHASE_DOWN] = VSHM_RESET,
	[VSHM_PHASE_PAUSE] = VSHM_RESET,
	[VSHM_PHASE_INIT] = VSHM_INIT,
	[VSHM_PHASE_READY] = VSHM_READY,
	[VSHM_PHASE_RUN] = VSHM_RUN,
	[VSHM_PHASE_OFF] = VSHM_RESET,
};

static struct ivd_peer ivd_read_peer(const struct ivd_link *ivd)
{
	struct ivd_peer peer;

	peer.peer_epoch = vshm_acquire(&ivd->peer->peer_epoch);
	peer.epoch = vshm_acquire(&ivd->peer->epoch);
	peer.state = vshm_acquire(&ivd->peer->state);
	if (peer.state > VSHM_RUN || !peer.epoch ||
	    vshm_read(&ivd->peer->generation) != ivd->base.identity.generation ||
	    vshm_read(&ivd->peer->ivposition) != ivd->peer_id)
		peer.state = VSHM_RESET;
	return peer;
}

/* Changes of phase beyond the burst wait. Starts of one's own, of a user or a peer in good
 * order, are never as many.
 */
static void ivd_count_change(struct ivd_link *ivd)
{
	if (time_after_eq(jiffies, ivd->burst_began + HZ)) {
		ivd->burst_began = jiffies;
		ivd->burst = 0;
	}
	if (++ivd->burst > IVD_BURST)
		ivd->base.not_before = jiffies + IVD_BURST_PAUSE;
}

void ivd_phase_changed(struct vshm_link *link)
{
	struct ivd_link *ivd = ivd_link(link);

	ivd_count_change(ivd);
	vshm_publish(&ivd->own->state, ivd_published[link->phase]);
	if (link->phase == VSHM_PHASE_RUN)
		link->counters[IVD_RUNS]++;
}

static void ivd_ring_peer(const struct ivd_link *ivd)
{
	if (ivd->peer_id)
		vshm_write_doorbell(ivd->base.registers, ivd->peer_id << 16 | VSHM_VECTOR_CONTROL);
}

static void ivd_reset_rings(struct ivd_link *ivd)
{
	u32 i;

	for (i = 0; i < ivd->base.pairs; i++) {
		struct ivd_queue *queue = ivd_queue(ivd->base.queues[i]);

		ivd_tx_reset(queue);
		ivd_rx_reset(queue);
	}
}

/* All of the block but its state. Also done again from time to time: the peer may have
 * overwritten it.
 */
static void ivd_publish_block(struct ivd_link *ivd)
{
	struct vshm_link *link = &ivd->base;
	struct vshm_side *own = ivd->own;

	vshm_publish(&own->generation, link->identity.generation);
	vshm_publish(&own->ivposition, link->identity.ivposition);
	vshm_publish(&own->features, VSHM_FEATURE_CSUM | VSHM_FEATURE_TSO4 | VSHM_FEATURE_TSO6 |
				     VSHM_FEATURE_ECN);
	vshm_publish(&own->mtu, READ_ONCE(link->dev->mtu));
	vshm_publish(&own->peer_epoch, ivd->taken);
	vshm_publish(&own->epoch, ivd->epoch);
}

/* A new epoch, which the peer cannot take for the last one. */
static void ivd_start(struct ivd_link *ivd)
{
	struct vshm_link *link = &ivd->base;

	if (link->phase != VSHM_PHASE_DOWN)
		vshm_set_phase(link, VSHM_PHASE_PAUSE);
	ivd_reset_rings(ivd);
	ivd->taken = 0;
	ivd->epoch = ivd->epoch + 1 ? ivd->epoch + 1 : 1;
	link->counters[IVD_STARTS]++;
	ivd_publish_block(ivd);
	vshm_set_phase(link, VSHM_PHASE_INIT);
	ivd_ring_peer(ivd);
}

/* The host has given us another peer, or for now none: what was agreed with the last one is over,
 * and the host may write where that one has written.
 */
void ivd_slot_changed(struct vshm_link *link)
{
	struct ivd_link *ivd = ivd_link(link);

	if (link->phase != VSHM_PHASE_DOWN)
		vshm_set_phase(link, VSHM_PHASE_PAUSE);
	vshm_control_renew(&link->identity);
	ivd->peer_id = link->identity.peer;
	if (link->phase != VSHM_PHASE_DOWN)
		ivd_start(ivd);
	vshm_answer(&link->identity, VSHM_ANSWER_ON, link->identity.sequence, 0);
	vshm_ring_host(link);
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
static void ivd_take_in(struct ivd_link *ivd, u32 epoch)
{
	vshm_quiesce(&ivd->base);
	ivd_reset_rings(ivd);
	ivd->taken = epoch;
	WRITE_ONCE(ivd->forbidden, ivd_forbidden(vshm_read(&ivd->peer->features)));
	vshm_publish(&ivd->own->peer_epoch, epoch);
	vshm_set_phase(&ivd->base, VSHM_PHASE_READY);
	ivd_ring_peer(ivd);
}

static bool ivd_has_taken_us_in(const struct ivd_link *ivd, const struct ivd_peer *peer)
{
	return peer->peer_epoch == ivd->epoch && peer->state >= VSHM_READY;
}

/* One row of the table. */
static void ivd_follow(struct ivd_link *ivd, const struct ivd_peer *peer)
{
	struct vshm_link *link = &ivd->base;

	switch (link->phase) {
	case VSHM_PHASE_DOWN:
		ivd_start(ivd);
		break;
	case VSHM_PHASE_PAUSE:
		if (vshm_phase_is_over(link))
			ivd_start(ivd);
		break;
	case VSHM_PHASE_INIT:
		if (peer->state != VSHM_RESET)
			ivd_take_in(ivd, peer->epoch);
		break;
	case VSHM_PHASE_READY:
	case VSHM_PHASE_RUN:
		if (peer->state == VSHM_RESET)
			ivd_start(ivd);
		else if (peer->epoch != ivd->taken)
			ivd_take_in(ivd, peer->epoch);
		else if (link->phase == VSHM_PHASE_RUN && peer->peer_epoch != ivd->epoch)
			ivd_start(ivd);
		else if (link->phase == VSHM_PHASE_READY && ivd_has_taken_us_in(ivd, peer))
			vshm_set_phase(link, VSHM_PHASE_RUN);
		break;
	case VSHM_PHASE_CLOSING:
	case VSHM_PHASE_OFF:
		break;
	}
}

void ivd_step(struct vshm_link *link)
{
	bool suspect = link->phase == VSHM_PHASE_RUN && vshm_is_suspect(link);
	struct ivd_link *ivd = ivd_link(link);
	struct ivd_peer peer;

	/* First whether there was garbage, then the peer: if it has just started again, that is
	 * why, and the table has a row for it. Pairs with cmpxchg() in vshm_suspect().
	 */
	smp_rmb();
	peer = ivd_read_peer(ivd);
	if (suspect && peer.epoch == ivd->taken && ivd_has_taken_us_in(ivd, &peer)) {
		vshm_pause(link);
		ivd_ring_peer(ivd);
	} else {
		ivd_follow(ivd, &peer);
	}
}

void ivd_close(struct vshm_link *link)
{
	if (link->phase == VSHM_PHASE_DOWN)
		return;
	vshm_set_phase(link, VSHM_PHASE_DOWN);
	ivd_ring_peer(ivd_link(link));
}

/* What we have published is published again, and the rings are looked at unasked. */
void ivd_refresh(struct vshm_link *link)
{
	struct ivd_link *ivd = ivd_link(link);
	bool stalled = false;
	u32 i;

	ivd_publish_block(ivd);
	vshm_publish(&ivd->own->state, ivd_published[link->phase]);
	if (link->phase != VSHM_PHASE_RUN)
		return;
	for (i = 0; i < link->pairs; i++)
		stalled |= ivd_tx_refresh(ivd_queue(link->queues[i]));
	if (stalled) {
		link->counters[IVD_STALLS]++;
		ivd_start(ivd);
	}
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
	ivd_net_setup(ivd);
	/* An earlier boot of this guest, or an earlier driver, may have left its state there. */
	vshm_publish(&ivd->own->state, VSHM_RESET);
	ivd_ring_peer(ivd);
	return 0;
}
