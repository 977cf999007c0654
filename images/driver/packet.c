// SPDX-License-Identifier: GPL-2.0
/* Packets that were copied out of memory that others write, on their way to the stack. */
#include "packet.h"

#include <linux/etherdevice.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "layout.h"

/* Up to here a packet is copied into one piece; of a larger one the headers, the rest goes into
 * pages.
 */
#define VSHM_COPYBREAK		1600u
#define VSHM_HEADERS		128u
#define VSHM_HEADERS_MAX	256u

/**
 * vshm_linear_length() - how much of a packet goes into one piece
 * @length: the packet's
 * @hdr: the peer's word on it, whose hint is looked at and not trusted
 *
 * Return: at most @length.
 */
u32 vshm_linear_length(u32 length, const struct virtio_net_hdr *hdr)
{
	u32 hint = le16_to_cpu((__force __le16)hdr->hdr_len);

	if (length <= VSHM_COPYBREAK)
		return length;
	return hint >= ETH_HLEN && hint <= VSHM_HEADERS_MAX ? hint : VSHM_HEADERS;
}

/**
 * vshm_append() - copy the next bytes of a packet into pages
 * @skb: the packet
 * @frag: the page that is in use
 * @from: the bytes
 * @bytes: how many
 * @left: how many are still to come, these included; at most VSHM_PACKET_MAX in all
 *
 * A page is used up before the next one is begun, and the first one has room for a page full or for
 * all: so the pieces of the largest packet fit.
 *
 * Return: false if there is no memory.
 */
bool vshm_append(struct sk_buff *skb, struct page_frag *frag, const u8 *from, u32 bytes, u32 left)
{
	BUILD_BUG_ON(DIV_ROUND_UP(VSHM_PACKET_MAX, PAGE_SIZE) > MAX_SKB_FRAGS);
	while (bytes) {
		int nr = skb_shinfo(skb)->nr_frags;
		u32 part;

		if ((!nr || frag->offset == frag->size) &&
		    !skb_page_frag_refill(min_t(u32, left, PAGE_SIZE), frag, GFP_ATOMIC))
			return false;
		part = min_t(u32, bytes, frag->size - frag->offset);
		memcpy(page_address(frag->page) + frag->offset, from, part);
		if (skb_can_coalesce(skb, nr, frag->page, frag->offset)) {
			skb_coalesce_rx_frag(skb, nr - 1, part, part);
		} else if (nr < MAX_SKB_FRAGS) {
			skb_add_rx_frag(skb, nr, frag->page, frag->offset, part, part);
			get_page(frag->page);
		} else {
			return false;
		}
		frag->offset += part;
		from += part;
		bytes -= part;
		left -= part;
	}
	return true;
}

/* What would fit the packet and is no honest sender's: segments of a byte each, of which a router
 * would have to make 65,000 packets; and a checksum far inside of the payload.
 */
static bool vshm_header_bearable(const struct virtio_net_hdr *hdr)
{
	if (hdr->gso_type != VIRTIO_NET_HDR_GSO_NONE &&
	    __virtio16_to_cpu(true, hdr->gso_size) < TCP_MIN_GSO_SIZE)
		return false;
	return !(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) ||
	       __virtio16_to_cpu(true, hdr->csum_start) <= VSHM_CSUM_START_MAX;
}

/**
 * vshm_deliver() - give a packet to the stack
 * @napi: the queue's
 * @skb: the packet; it is freed if it is not delivered
 * @hdr: what its sender says of its checksum and segments
 * @queue: the queue's number
 *
 * Return: false if @hdr does not fit the packet's contents, or costs too much.
 */
bool vshm_deliver(struct napi_struct *napi, struct sk_buff *skb, const struct virtio_net_hdr *hdr,
		  u32 queue)
{
	if (hdr->flags & VIRTIO_NET_HDR_F_DATA_VALID)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (!vshm_header_bearable(hdr) || virtio_net_hdr_to_skb(skb, hdr, true)) {
		kfree_skb(skb);
		return false;
	}
	skb_record_rx_queue(skb, queue);
	skb->protocol = eth_type_trans(skb, napi->dev);
	napi_gro_receive(napi, skb);
	return true;
}

/**
 * vshm_free_frag() - free the page that is in use
 * @frag: the page, if any
 */
void vshm_free_frag(struct page_frag *frag)
{
	if (frag->page)
		put_page(frag->page);
	frag->page = NULL;
}
