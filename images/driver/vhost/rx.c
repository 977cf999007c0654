// SPDX-License-Identifier: GPL-2.0
/* Receive: NAPI takes chains from the peer's transmit queue, copies the packets out of them and
 * completes them. What is checked and used is the copy.
 */
#include <linux/virtio_net.h>

#include "packet.h"
#include "queue.h"
#include "vhost.h"

/* The peer gets its buffers back after so many bytes or packets, without waiting for the end of
 * the poll: its sockets wait for them.
 */
#define VHP_RX_BYTES	65536u
#define VHP_RX_PACKETS	32u

struct vhp_reader {
	const struct vhp_piece *piece;
	u32 at;
};

/* The next bytes that lie together, at most so many as are wanted. */
static const u8 *vhp_next(struct vhp_reader *reader, u32 wanted, u32 *length)
{
	const u8 *from = reader->piece->at + reader->at;

	*length = min(wanted, reader->piece->length - reader->at);
	reader->at += *length;
	if (reader->at == reader->piece->length) {
		reader->piece++;
		reader->at = 0;
	}
	return from;
}

/* The chain has so many bytes. */
static void vhp_read(struct vhp_reader *reader, void *to, u32 bytes)
{
	while (bytes) {
		u32 part;
		const u8 *from = vhp_next(reader, bytes, &part);

		memcpy(to, from, part);
		to += part;
		bytes -= part;
	}
}

static bool vhp_read_pages(struct page_frag *frag, struct vhp_reader *reader, struct sk_buff *skb,
			   u32 left)
{
	while (left) {
		u32 part;
		const u8 *from = vhp_next(reader, left, &part);

		if (!vshm_append(skb, frag, from, part, left))
			return false;
		left -= part;
	}
	return true;
}

static struct sk_buff *vhp_copy_packet(struct vhp_queue *queue, struct vhp_reader *reader,
				       const struct virtio_net_hdr *hdr, u32 length)
{
	u32 linear = vshm_linear_length(length, hdr);
	struct sk_buff *skb;

	skb = napi_alloc_skb(&queue->base.napi, linear);
	if (!skb)
		return NULL;
	vhp_read(reader, skb_put(skb, linear), linear);
	if (!vhp_read_pages(&queue->base.frag, reader, skb, length - linear)) {
		kfree_skb(skb);
		return NULL;
	}
	return skb;
}

/* Segments of other protocols than TCP were not negotiated, ever. */
static bool vhp_header_valid(const struct virtio_net_hdr *hdr)
{
	switch (hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE;
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	default:
		return false;
	}
}

static void vhp_rx_packet(struct vhp_queue *queue)
{
	struct vhp_reader reader = { .piece = queue->rx.chain->pieces };
	u32 header_size = vhp_link(queue->base.link)->header_size;
	struct vshm_rx_stats *stats = &queue->base.rx_stats;
	u32 length = queue->rx.chain->bytes - header_size;
	struct virtio_net_hdr_mrg_rxbuf header;
	u64_stats_t *counter = &stats->bad;
	struct sk_buff *skb;
	bool good = false;

	if (queue->rx.chain->bytes >= header_size + VSHM_PACKET_MIN && length <= VSHM_PACKET_MAX) {
		vhp_read(&reader, &header, header_size);
		good = vhp_header_valid(&header.hdr);
	}
	if (good) {
		/* The standard has a device believe no checksum that its driver did not ask for. */
		header.hdr.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
		skb = vhp_copy_packet(queue, &reader, &header.hdr, length);
		if (!skb)
			counter = &stats->dropped;
		else if (vshm_deliver(&queue->base.napi, skb, &header.hdr, queue->base.index))
			counter = &stats->packets;
	}
	u64_stats_update_begin(&stats->sync);
	u64_stats_inc(counter);
	if (counter == &stats->packets)
		u64_stats_add(&stats->bytes, length);
	u64_stats_update_end(&stats->sync);
}

/* Gives completed buffers back, and interrupts the peer if it wants that. */
static bool vhp_rx_flush(struct vhp_queue *queue)
{
	struct vshm_rx_stats *stats = &queue->base.rx_stats;
	struct vhp_rx *rx = &queue->rx;
	bool wanted;

	if (!vhp_publish(&rx->ring)) {
		vshm_suspect(queue->base.link, VHP_FOREIGN_USED);
		return false;
	}
	if (rx->ring.rung == rx->ring.published)
		return true;
	wanted = vhp_wants_ring(&rx->ring);
	if (wanted)
		vshm_write_doorbell(queue->base.link->registers, READ_ONCE(rx->doorbell));
	vshm_count(&stats->sync, wanted ? &stats->doorbells : &stats->suppressed);
	return true;
}

/* Is there another chain to take? */
static bool vhp_rx_more(struct vhp_queue *queue)
{
	if (vhp_waiting(&queue->rx.ring))
		return true;
	if (!vhp_look(&queue->rx.ring)) {
		vshm_suspect(queue->base.link, VHP_BAD_AVAIL);
		return false;
	}
	return vhp_waiting(&queue->rx.ring);
}

static int vhp_take_chains(struct vhp_queue *queue, int budget)
{
	const struct vhp_memory *memory = &vhp_link(queue->base.link)->memory;
	struct vhp_rx *rx = &queue->rx;
	u32 bytes = 0, packets = 0, total = 0;
	int done;

	for (done = 0; done < budget && vhp_rx_more(queue); done++) {
		u32 head = vhp_head(&rx->ring, 0);
		enum vhp_fault fault;

		rx->chain->count = 0;
		rx->chain->bytes = 0;
		fault = vhp_walk(memory, &rx->ring, head, 0, rx->chain);
		if (fault) {
			vshm_suspect(queue->base.link, fault);
			break;
		}
		vhp_rx_packet(queue);
		vhp_complete(&rx->ring, 0, head, 0);
		rx->ring.next++;
		bytes += rx->chain->bytes;
		total += rx->chain->bytes;
		if (total >= VSHM_POLL_BYTES) {
			done = budget;
			break;
		}
		if (bytes < VHP_RX_BYTES && ++packets < VHP_RX_PACKETS)
			continue;
		if (!vhp_rx_flush(queue))
			return done + 1;
		bytes = 0;
		packets = 0;
	}
	vhp_rx_flush(queue);
	return done;
}

/* Once a second: an interrupt that the peer did not hear is raised again. */
static void vhp_rx_refresh(struct vhp_queue *queue)
{
	struct vshm_rx_stats *stats = &queue->base.rx_stats;
	struct vhp_rx *rx = &queue->rx;

	WRITE_ONCE(rx->refresh, false);
	if (!vhp_is_unheard(&rx->ring))
		return;
	vshm_write_doorbell(queue->base.link->registers, READ_ONCE(rx->doorbell));
	vshm_count(&stats->sync, &stats->repeated);
}

static int vhp_receive(struct vshm_queue *base, int budget)
{
	struct vhp_queue *queue = vhp_queue(base);
	int done;

	vhp_quiet(&queue->rx.ring);
	done = vhp_take_chains(queue, budget);
	if (READ_ONCE(queue->rx.refresh) && !vshm_is_suspect(base->link))
		vhp_rx_refresh(queue);
	return done;
}

/* Asks to be kicked for the next chain, and looks once more: it may have come before the wish
 * could be seen.
 */
static bool vhp_rx_may_sleep(struct napi_struct *napi)
{
	struct vhp_queue *queue = container_of(napi, struct vhp_queue, base.napi);

	if (vshm_is_suspect(queue->base.link))
		return true;
	vhp_ask(&queue->rx.ring, queue->rx.ring.next);
	return !vhp_rx_more(queue);
}

int vhp_poll(struct napi_struct *napi, int budget)
{
	return vshm_poll(napi, budget, vhp_tx_may_start, vhp_receive, vhp_rx_may_sleep);
}

void vhp_rx_start(struct vhp_queue *queue)
{
	vhp_continue(&queue->rx.ring);
}
