/* SPDX-License-Identifier: GPL-2.0 */
/* Packets that were copied out of memory that others write, on their way to the stack. */
#ifndef VSHM_PACKET_H
#define VSHM_PACKET_H

#include <linux/if_ether.h>
#include <linux/netdevice.h>
#include <linux/sizes.h>
#include <linux/skbuff.h>
#include <linux/virtio_net.h>

u32 vshm_linear_length(u32 length, const struct virtio_net_hdr *hdr);
bool vshm_append(struct sk_buff *skb, struct page_frag *frag, const u8 *from, u32 bytes, u32 left);
bool vshm_deliver(struct napi_struct *napi, struct sk_buff *skb, const struct virtio_net_hdr *hdr,
		  u32 queue);
void vshm_free_frag(struct page_frag *frag);

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

#endif /* VSHM_PACKET_H */
