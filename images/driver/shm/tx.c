// SPDX-License-Identifier: GPL-2.0
/* Transmit: packets are copied into the ring and done with; segments and checksums cross as a
 * word about them.
 */
#include <linux/etherdevice.h>
#include <linux/virtio_net.h>

#include "access.h"
#include "queue.h"
#include "ring.h"
#include "shm.h"

/* The queue stops while the largest packet still fits, so that none ever comes that does not. */
#define IVD_STOP_ROOM	ivd_worst_room(VSHM_PACKET_MAX)

/* A full ring that stands still for so many seconds is that of a peer that is gone. */
#define IVD_STALL_LOOKS	4

static u32 ivd_tx_room(const struct ivd_tx *tx)
{
	return ivd_room(tx->head, tx->tail, tx->size);
}

/* Half a ring at once, so that a full ring costs few interrupts. Never less than the stop mark:
 * a ring has room for two of the largest records.
 */
static u32 ivd_wake_room(const struct ivd_tx *tx)
{
	return tx->size / 2 > IVD_STOP_ROOM ? tx->size / 2 : IVD_STOP_ROOM;
}

static bool ivd_tx_look_at_tail(struct ivd_queue *queue)
{
	struct ivd_tx *tx = &queue->tx;
	u32 tail = vshm_acquire(&tx->peer->tail);

	if (!ivd_tail_valid(tail, tx->tail, tx->head)) {
		vshm_suspect(queue->base.link, IVD_BAD_TAIL);
		return false;
	}
	tx->tail = tail;
	return true;
}

static void ivd_write_record(struct ivd_tx *tx, const struct virtio_net_hdr *meta, u32 length)
{
	const struct vshm_record record = {
		.length = cpu_to_le32(length),
		.flags = cpu_to_le16(meta->flags),
		.gso_type = meta->gso_type,
		.gso_size = (__force __le16)meta->gso_size,
		.hdr_len = (__force __le16)meta->hdr_len,
		.csum_start = (__force __le16)meta->csum_start,
		.csum_offset = (__force __le16)meta->csum_offset,
	};

	memcpy(tx->data + ivd_offset(tx->head, tx->size), &record, sizeof(record));
	tx->head += sizeof(record);
}

static void ivd_write_padding(struct ivd_tx *tx, u32 bytes)
{
	const struct vshm_record record = {
		.length = cpu_to_le32(bytes - (u32)sizeof(record)),
		.flags = cpu_to_le16(VSHM_FLAG_PAD),
	};

	memcpy(tx->data + ivd_offset(tx->head, tx->size), &record, sizeof(record));
	tx->head += bytes;
}

/* Puts one packet into the ring. False: it cannot be sent, now or never, and is dropped. */
static bool ivd_tx_put(struct ivd_tx *tx, const struct sk_buff *skb)
{
	u32 need = ivd_record_size(skb->len);
	u32 padding = ivd_padding(tx->head, need, tx->size);
	struct virtio_net_hdr meta;
	u32 start;

	if (skb->len < VSHM_PACKET_MIN || skb->len > VSHM_PACKET_MAX)
		return false;
	if (padding + need > ivd_tx_room(tx))
		return false;
	if (virtio_net_hdr_from_skb(skb, &meta, true, false, 0))
		return false;
	if (padding)
		ivd_write_padding(tx, padding);
	start = tx->head;
	ivd_write_record(tx, &meta, skb->len);
	if (skb_copy_bits(skb, 0, tx->data + ivd_offset(tx->head, tx->size), skb->len)) {
		/* The padding stays: it is a whole record, and published with the next one. */
		tx->head = start;
		return false;
	}
	tx->head = start + need;
	vshm_publish(&tx->own->head, tx->head);
	return true;
}

/* Stops the queue while there is room for one more, and asks to be rung when half the ring is
 * free.
 */
static void ivd_tx_stop_early(struct ivd_queue *queue, struct netdev_queue *txq)
{
	struct ivd_tx *tx = &queue->tx;

	if (ivd_tx_room(tx) >= IVD_STOP_ROOM)
		return;
	if (ivd_tx_look_at_tail(queue) && ivd_tx_room(tx) >= IVD_STOP_ROOM)
		return;
	vshm_stop_queue(&queue->base, txq);
	tx->room_event = ivd_room_position(tx->head, ivd_wake_room(tx), tx->size);
	vshm_publish(&tx->own->room_event, tx->room_event);
	/* The peer may have made room just before it could see our wish. */
	vshm_full_barrier();
	if (!vshm_is_suspect(queue->base.link) && ivd_tx_look_at_tail(queue) &&
	    ivd_tx_room(tx) >= ivd_wake_room(tx))
		netif_tx_start_queue(txq);
}

static void ivd_tx_ring(struct ivd_queue *queue)
{
	struct vshm_tx_stats *stats = &queue->base.tx_stats;
	struct ivd_tx *tx = &queue->tx;
	bool wanted;

	if (tx->rung == tx->head)
		return;
	vshm_full_barrier();
	wanted = ivd_passed(vshm_read(&tx->peer->event), tx->head, tx->rung);
	tx->rung = tx->head;
	if (wanted)
		ivd_ring(&queue->base, VSHM_VECTOR_DATA(queue->base.index));
	vshm_count(&stats->sync, wanted ? &stats->doorbells : &stats->suppressed);
}

netdev_tx_t ivd_xmit(struct sk_buff *skb, struct net_device *dev)
{
	u16 index = skb_get_queue_mapping(skb);
	struct ivd_queue *queue = ivd_queue(vshm_link(dev)->queues[index]);
	struct netdev_queue *txq = netdev_get_tx_queue(dev, index);
	u32 length = skb->len;
	bool sent;

	skb_tx_timestamp(skb);
	sent = ivd_tx_put(&queue->tx, skb);
	vshm_count_tx(&queue->base, sent, length);
	ivd_tx_stop_early(queue, txq);
	if (!netdev_xmit_more() || netif_xmit_stopped(txq))
		ivd_tx_ring(queue);
	vshm_free_skb(skb, sent);
	return NETDEV_TX_OK;
}

bool ivd_tx_may_start(struct vshm_queue *base)
{
	struct ivd_queue *queue = ivd_queue(base);

	return ivd_tx_look_at_tail(queue) && ivd_tx_room(&queue->tx) >= ivd_wake_room(&queue->tx);
}

static void ivd_tx_publish(struct ivd_tx *tx)
{
	vshm_publish(&tx->own->room_event, tx->room_event);
	vshm_publish(&tx->own->head, tx->head);
}

void ivd_tx_reset(struct ivd_queue *queue)
{
	struct ivd_tx *tx = &queue->tx;

	tx->head = 0;
	tx->tail = 0;
	tx->rung = 0;
	tx->room_event = U32_MAX;
	ivd_tx_publish(tx);
}

bool ivd_tx_refresh(struct ivd_queue *queue)
{
	struct netdev_queue *txq = vshm_txq(&queue->base);
	struct ivd_tx *tx = &queue->tx;

	__netif_tx_lock_bh(txq);
	ivd_tx_publish(tx);
	ivd_tx_look_at_tail(queue);
	if (netif_tx_queue_stopped(txq) && tx->tail == tx->refreshed_tail)
		tx->stall_looks++;
	else
		tx->stall_looks = 0;
	tx->refreshed_tail = tx->tail;
	__netif_tx_unlock_bh(txq);
	return tx->stall_looks >= IVD_STALL_LOOKS;
}
