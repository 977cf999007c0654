// SPDX-License-Identifier: GPL-2.0
/* Receive: NAPI copies packets out of the ring; what is checked and used is the copy. */
#include <linux/virtio_net.h>

#include "access.h"
#include "packet.h"
#include "queue.h"
#include "ring.h"
#include "shm.h"

/* A record's header, read once. */
struct ivd_meta {
	u32 length;
	bool pad;
	struct virtio_net_hdr hdr;
};

static void ivd_read_meta(const struct ivd_rx *rx, struct ivd_meta *meta, u16 *flags)
{
	const u8 *at = rx->data + ivd_offset(rx->tail, rx->size);
	const struct vshm_record *shared = (const void *)at;

	meta->length = vshm_read(&shared->length);
	*flags = vshm_read16(&shared->flags);
	meta->pad = *flags == VSHM_FLAG_PAD;
	meta->hdr = (struct virtio_net_hdr){
		.flags = *flags & (VSHM_FLAG_NEEDS_CSUM | VSHM_FLAG_DATA_VALID),
		.gso_type = READ_ONCE(shared->gso_type),
		.hdr_len = (__force __virtio16)READ_ONCE(shared->hdr_len),
		.gso_size = (__force __virtio16)READ_ONCE(shared->gso_size),
		.csum_start = (__force __virtio16)READ_ONCE(shared->csum_start),
		.csum_offset = (__force __virtio16)READ_ONCE(shared->csum_offset),
	};
}

static bool ivd_flags_valid(u16 flags, u8 gso_type)
{
	if (flags & ~(VSHM_FLAG_NEEDS_CSUM | VSHM_FLAG_DATA_VALID))
		return false;
	switch (gso_type & ~VSHM_GSO_ECN) {
	case VSHM_GSO_NONE:
		return gso_type == VSHM_GSO_NONE;
	case VSHM_GSO_TCPV4:
	case VSHM_GSO_TCPV6:
		return flags & VSHM_FLAG_NEEDS_CSUM;
	default:
		return false;
	}
}

static bool ivd_read_record(const struct ivd_rx *rx, struct ivd_meta *meta)
{
	u32 held = rx->head - rx->tail;
	u16 flags;

	ivd_read_meta(rx, meta, &flags);
	if (meta->pad)
		return ivd_padding_valid(meta->length, rx->tail, held, rx->size);
	return ivd_packet_valid(meta->length, rx->tail, held, rx->size) &&
	       ivd_flags_valid(flags, meta->hdr.gso_type);
}

static struct sk_buff *ivd_copy_packet(struct ivd_queue *queue, const struct ivd_meta *meta)
{
	struct ivd_rx *rx = &queue->rx;
	const u8 *from = rx->data + ivd_offset(rx->tail, rx->size) + sizeof(struct vshm_record);
	u32 linear = vshm_linear_length(meta->length, &meta->hdr);
	u32 rest = meta->length - linear;
	struct sk_buff *skb;

	skb = napi_alloc_skb(&queue->base.napi, linear);
	if (!skb)
		return NULL;
	skb_put_data(skb, from, linear);
	if (!vshm_append(skb, &queue->base.frag, from + linear, rest, rest)) {
		kfree_skb(skb);
		return NULL;
	}
	return skb;
}

static void ivd_rx_packet(struct ivd_queue *queue, const struct ivd_meta *meta)
{
	struct vshm_rx_stats *stats = &queue->base.rx_stats;
	struct sk_buff *skb = ivd_copy_packet(queue, meta);
	bool good = skb && vshm_deliver(&queue->base.napi, skb, &meta->hdr, queue->base.index);

	u64_stats_update_begin(&stats->sync);
	if (good) {
		u64_stats_inc(&stats->packets);
		u64_stats_add(&stats->bytes, meta->length);
	} else if (skb) {
		u64_stats_inc(&stats->bad);
	} else {
		u64_stats_inc(&stats->dropped);
	}
	u64_stats_update_end(&stats->sync);
}

/* Takes the peer's head in. False: the ring is empty, or the head is invalid. */
static bool ivd_rx_more(struct ivd_queue *queue)
{
	struct ivd_rx *rx = &queue->rx;
	u32 head;

	if (rx->head != rx->tail)
		return true;
	head = vshm_acquire(&rx->peer->head);
	if (!ivd_head_valid(head, rx->head, rx->tail, rx->size)) {
		vshm_suspect(queue->base.link, IVD_BAD_HEAD);
		return false;
	}
	rx->head = head;
	return head != rx->tail;
}

static void ivd_rx_ring(struct ivd_queue *queue)
{
	struct vshm_rx_stats *stats = &queue->base.rx_stats;
	struct ivd_rx *rx = &queue->rx;
	bool wanted;

	if (rx->rung == rx->tail)
		return;
	vshm_full_barrier();
	wanted = ivd_passed(vshm_read(&rx->peer->room_event), rx->tail, rx->rung);
	rx->rung = rx->tail;
	if (wanted)
		ivd_ring(&queue->base, VSHM_VECTOR_ROOM(queue->base.index));
	vshm_count(&stats->sync, wanted ? &stats->doorbells : &stats->suppressed);
}

static int ivd_receive(struct vshm_queue *base, int budget)
{
	struct ivd_queue *queue = ivd_queue(base);
	struct ivd_rx *rx = &queue->rx;
	struct ivd_meta meta;
	u32 began = rx->tail;
	int done = 0;

	/* Padding counts as well: a peer that writes nothing else must not keep us here. */
	for (; done < budget && ivd_rx_more(queue); done++) {
		if (!ivd_read_record(rx, &meta)) {
			vshm_suspect(queue->base.link, IVD_BAD_RECORD);
			break;
		}
		if (!meta.pad)
			ivd_rx_packet(queue, &meta);
		rx->tail += ivd_record_size(meta.length);
		vshm_publish(&rx->own->tail, rx->tail);
		/* The budget's packets may be more than a ring full. */
		if (rx->tail - rx->rung >= rx->size / 4)
			ivd_rx_ring(queue);
		if (rx->tail - began >= VSHM_POLL_BYTES) {
			done = budget;
			break;
		}
	}
	ivd_rx_ring(queue);
	return done;
}

/* Asks to be rung for the next record, and looks once more: it may have come before the wish
 * could be seen.
 */
static bool ivd_rx_may_sleep(struct napi_struct *napi)
{
	struct ivd_queue *queue = container_of(napi, struct ivd_queue, base.napi);
	struct ivd_rx *rx = &queue->rx;

	if (vshm_is_suspect(queue->base.link))
		return true;
	vshm_publish(&rx->own->tail, rx->tail);
	vshm_publish(&rx->own->event, rx->tail);
	vshm_full_barrier();
	return !ivd_rx_more(queue);
}

int ivd_poll(struct napi_struct *napi, int budget)
{
	return vshm_poll(napi, budget, ivd_tx_may_start, ivd_receive, ivd_rx_may_sleep);
}

void ivd_rx_reset(struct ivd_queue *queue)
{
	struct ivd_rx *rx = &queue->rx;

	rx->tail = 0;
	rx->head = 0;
	rx->rung = 0;
	vshm_publish(&rx->own->tail, 0);
	vshm_publish(&rx->own->event, U32_MAX);
}
