/* SPDX-License-Identifier: GPL-2.0 */
/* Packets that were copied out of memory that others write, on their way to the stack. */
#ifndef VSHM_PACKET_H
#define VSHM_PACKET_H

#include <linux/if_ether.h>
#include <linux/netdevice.h>
#include <linux/sizes.h>
#include <linux/skbuff.h>
#include <linux/virtio_net.h>

/* The part of a packet that goes into one piece. The peer's hint is looked at, not trusted. */
u32 vshm_linear_length(u32 length, const struct virtio_net_hdr *hdr);

/* Copies the next bytes of a packet into pages; `left` are all that are still to come, these
 * included. At most VSHM_PACKET_MAX in all. False: no memory.
 */
bool vshm_append(struct sk_buff *skb, struct page_frag *frag, const u8 *from, u32 bytes, u32 left);

/* The stack gets the packet if what is said of its checksum and segments fits its contents;
 * otherwise it is freed.
 */
bool vshm_deliver(struct napi_struct *napi, struct sk_buff *skb, const struct virtio_net_hdr *hdr,
		  u32 queue);

/* A poll that has copied so much ends, and is scheduled again: without this it could be 64 packets
 * of 64 KiB, 4 MiB in one softirq, which is 4 ms and more of an emulated CPU.
 */
#define VSHM_POLL_BYTES		SZ_1M

/* The furthest that a checksum may begin: room for Ethernet, VLAN tags, a tunnel and IPv6 with
 * extension headers. All in front of it is made one linear piece, by an allocation that must not
 * sleep: 60 KiB of it for each packet, if a peer could choose.
 */
#define VSHM_CSUM_START_MAX	512u

/* The largest Ethernet packet that IPv4 can speak of, less its header. */
#define VSHM_MTU_MAX		(65535 - ETH_HLEN)

void vshm_free_frag(struct page_frag *frag);

#endif /* VSHM_PACKET_H */
