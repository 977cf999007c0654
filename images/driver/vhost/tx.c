// SPDX-License-Identifier: GPL-2.0
/* Transmit: packets are copied into the buffers that the peer has put into its receive queue, and
 * are done with; segments and checksums cross as a word about them.
 */
#include <linux/virtio_net.h>

#include "queue.h"
#include "vhost.h"

/* The smallest buffer that a driver with mergeable ones posts: a full Ethernet packet. */
#define VHP_BUFFER_MIN	1518u

#define VHP_STALL_LOOKS	3u

enum vhp_put {
	VHP_SENT,
	VHP_DROPPED,	/* can never be sent */
	VHP_SHORT,	/* the peer has too few buffers now */
};

struct vhp_writer {
	const struct vhp_piece *piece;
	u32 at;
};

/* The chain has room for so many bytes. */
static void vhp_write(struct vhp_writer *writer, const void *from, u32 bytes)
{
	while (bytes) {
		u32 part = min(bytes, writer->piece->length - writer->at);

		memcpy(writer->piece->at + writer->at, from, part);
		writer->at += part;
		if (writer->at == writer->piece->length) {
			writer->piece++;
			writer->at = 0;
		}
		from += part;
		bytes -= part;
	}
}

/* The stack gives us no lists of fragments: no such feature is announced. */
static void vhp_write_packet(struct vhp_writer *writer, const struct sk_buff *skb)
{
	const struct skb_shared_info *shared = skb_shinfo(skb);
	int i;

	vhp_write(writer, skb->data, skb_headlen(skb));
	for (i = 0; i < shared->nr_frags; i++)
		vhp_write(writer, skb_frag_address(&shared->frags[i]),
			  skb_frag_size(&shared->frags[i]));
}

/* How many heads wait, at least `wanted` if there are. */
static u32 vhp_tx_heads(struct vhp_queue *queue, u32 wanted)
{
	struct vhp_ring *ring = &queue->tx.ring;
	u16 seen = ring->seen;

	if (vhp_waiting(ring) >= wanted)
		return vhp_waiting(ring);
	if (!vhp_look(ring)) {
		vshm_suspect(queue->base.link, VHP_BAD_AVAIL);
		return 0;
	}
	if (ring->seen != seen) {
		queue->tx.stalled = false;
		vhp_raise_marks(&queue->tx.marks, vhp_waiting(ring));
	}
	return vhp_waiting(ring);
}

/* May there ever be more than these many heads? */
static bool vhp_tx_may_wait(const struct vhp_queue *queue, u32 heads)
{
	return heads < queue->tx.ring.size && !queue->tx.stalled &&
	       !vshm_is_suspect(queue->base.link);
}

/* Collects buffers for so many bytes and notes their completions, which the peer does not
 * see yet. Their number is in `heads`.
 */
static enum vhp_put vhp_gather(struct vhp_queue *queue, u32 bytes, u32 *heads)
{
	const struct vhp_link *vhp = vhp_link(queue->base.link);
	struct vhp_tx *tx = &queue->tx;
	u32 before = 0, count = 0;

	tx->chain->count = 0;
	tx->chain->bytes = 0;
	do {
		enum vhp_fault fault;
		u32 head;

		if (vhp_tx_heads(queue, count + 1) <= count) {
			*heads = count;
			return vhp_tx_may_wait(queue, count) ? VHP_SHORT : VHP_DROPPED;
		}
		head = vhp_head(&tx->ring, count);
		before = tx->chain->bytes;
		fault = vhp_walk(&vhp->memory, &tx->ring, head, VRING_DESC_F_WRITE, tx->chain);
		if (fault) {
			vshm_suspect(queue->base.link, fault);
			return VHP_DROPPED;
		}
		vhp_complete(&tx->ring, count, head,
			     min(bytes, tx->chain->bytes) - before);
		count++;
	} while (tx->chain->bytes < bytes && vhp->mergeable);
	*heads = count;
	return tx->chain->bytes < bytes ? VHP_DROPPED : VHP_SENT;
}

static enum vhp_put vhp_tx_put(struct vhp_queue *queue, const struct sk_buff *skb, u32 *heads)
{
	u32 header_size = vhp_link(queue->base.link)->header_size;
	struct virtio_net_hdr_mrg_rxbuf header;
	struct vhp_tx *tx = &queue->tx;
	struct vhp_writer writer;
	enum vhp_put put;

	if (vshm_is_suspect(queue->base.link) || skb->len > VSHM_PACKET_MAX)
		return VHP_DROPPED;
	if (virtio_net_hdr_from_skb(skb, &header.hdr, true, false, 0))
		return VHP_DROPPED;
	put = vhp_gather(queue, header_size + skb->len, heads);
	if (put != VHP_SENT)
		return put;
	header.num_buffers = (__force __virtio16)cpu_to_le16(*heads);
	writer = (struct vhp_writer){ .piece = tx->chain->pieces };
	vhp_write(&writer, &header, header_size);
	vhp_write_packet(&writer, skb);
	tx->ring.next += *heads;
	return VHP_SENT;
}

bool vhp_tx_may_start(struct vshm_queue *base)
{
	struct vhp_queue *queue = vhp_queue(base);
	struct vhp_tx *tx = &queue->tx;

	if (vhp_tx_heads(queue, tx->awaited_heads) < tx->awaited_heads)
		return false;
	vhp_quiet(&tx->ring);
	return true;
}

static void vhp_tx_ask(struct vhp_tx *tx)
{
	vhp_ask(&tx->ring, tx->ring.next + tx->awaited_heads - 1);
}

/* Stops the queue, and asks to be kicked when the peer has posted enough buffers again. */
static void vhp_tx_stop(struct vhp_queue *queue, struct netdev_queue *txq, u32 heads)
{
	struct vhp_tx *tx = &queue->tx;

	vshm_stop_queue(&queue->base, txq);
	tx->awaited_heads = heads;
	vhp_tx_ask(tx);
	/* The peer may have posted them just before it could see our wish. */
	if (vhp_tx_may_start(&queue->base))
		netif_tx_start_queue(txq);
}

/* Shows the peer what it has got, and interrupts it if it wants that. */
static void vhp_tx_flush(struct vhp_queue *queue)
{
	struct vshm_tx_stats *stats = &queue->base.tx_stats;
	struct vhp_tx *tx = &queue->tx;
	bool wanted;

	if (!vhp_publish(&tx->ring)) {
		vshm_suspect(queue->base.link, VHP_FOREIGN_USED);
		return;
	}
	if (tx->ring.rung == tx->ring.published)
		return;
	wanted = vhp_wants_ring(&tx->ring);
	if (wanted)
		vshm_write_doorbell(queue->base.link->registers, READ_ONCE(tx->doorbell));
	vshm_count(&stats->sync, wanted ? &stats->doorbells : &stats->suppressed);
}

netdev_tx_t vhp_xmit(struct sk_buff *skb, struct net_device *dev)
{
	u16 index = skb_get_queue_mapping(skb);
	struct vhp_queue *queue = vhp_queue(vshm_link(dev)->queues[index]);
	struct netdev_queue *txq = netdev_get_tx_queue(dev, index);
	struct vhp_tx *tx = &queue->tx;
	u32 length = skb->len;
	enum vhp_put put;
	u32 heads;

	put = vhp_tx_put(queue, skb, &heads);
	if (put == VHP_SHORT) {
		/* The peer's buffers are smaller than VHP_BUFFER_MIN: the queue was not stopped
		 * early enough.
		 */
		vhp_tx_stop(queue, txq, max(tx->marks.wake, heads + 1));
		vhp_tx_flush(queue);
		return NETDEV_TX_BUSY;
	}
	skb_tx_timestamp(skb);
	vshm_count_tx(&queue->base, put == VHP_SENT, length);
	if (!tx->stalled && !vshm_is_suspect(queue->base.link) &&
	    vhp_tx_heads(queue, tx->marks.stop) < tx->marks.stop)
		vhp_tx_stop(queue, txq, tx->marks.wake);
	if (!netdev_xmit_more() || netif_xmit_stopped(txq))
		vhp_tx_flush(queue);
	vshm_free_skb(skb, put == VHP_SENT);
	return NETDEV_TX_OK;
}

void vhp_tx_start(struct vhp_queue *queue)
{
	bool mergeable = vhp_link(queue->base.link)->mergeable;
	struct vhp_tx *tx = &queue->tx;

	vhp_set_marks(&tx->marks, tx->ring.size,
		      mergeable ? DIV_ROUND_UP(VSHM_PACKET_MAX, VHP_BUFFER_MIN) : 1);
	tx->stalled = false;
	tx->stall_looks = 0;
	vhp_continue(&tx->ring);
	/* Nothing was asked for, whatever is there. */
	vhp_ask(&tx->ring, tx->ring.next - 1);
	vhp_quiet(&tx->ring);
}

void vhp_tx_finish(struct vhp_queue *queue)
{
	if (!vshm_is_suspect(queue->base.link))
		vhp_tx_flush(queue);
}

/* The peer has not heard of what it got. */
static void vhp_tx_repeat(struct vhp_queue *queue)
{
	struct vshm_tx_stats *stats = &queue->base.tx_stats;
	struct vhp_tx *tx = &queue->tx;

	vshm_write_doorbell(queue->base.link->registers, READ_ONCE(tx->doorbell));
	vshm_count(&stats->sync, &stats->repeated);
}

bool vhp_tx_refresh(struct vhp_queue *queue)
{
	struct netdev_queue *txq = vshm_txq(&queue->base);
	struct vhp_tx *tx = &queue->tx;
	bool stopped;

	__netif_tx_lock_bh(txq);
	stopped = netif_tx_queue_stopped(txq) && !vshm_is_suspect(queue->base.link);
	if (!stopped || tx->ring.seen != tx->refreshed_seen)
		tx->stall_looks = 0;
	tx->refreshed_seen = tx->ring.seen;
	if (stopped) {
		tx->stall_looks++;
		vhp_tx_ask(tx);
		vhp_tx_heads(queue, tx->awaited_heads);
	}
	if (stopped && tx->stall_looks > VHP_STALL_LOOKS) {
		/* A packet that does not fit is dropped from now on, rather than kept for a peer
		 * that may never take it. A peer that never posts more than these is not waited for
		 * again.
		 */
		tx->stalled = true;
		vhp_lower_marks(&tx->marks, vhp_waiting(&tx->ring));
		netif_tx_wake_queue(txq);
	}
	if (!vshm_is_suspect(queue->base.link) && vhp_is_unheard(&tx->ring))
		vhp_tx_repeat(queue);
	__netif_tx_unlock_bh(txq);
	return stopped && tx->stalled;
}
