// SPDX-License-Identifier: Apache-2.0
#include "announce.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/if_ether.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ether_arp who_has(const struct link *link, struct in_addr target)
{
	struct ether_arp arp = {
		.ea_hdr = {
			.ar_hrd = htons(ARPHRD_ETHER),
			.ar_pro = htons(ETHERTYPE_IP),
			.ar_hln = ETH_ALEN,
			.ar_pln = sizeof(link->address),
			.ar_op = htons(ARPOP_REQUEST),
		},
	};

	memcpy(arp.arp_sha, link->mac, ETH_ALEN);
	memcpy(arp.arp_spa, &link->address, sizeof(link->address));
	memcpy(arp.arp_tpa, &target, sizeof(target));
	return arp;
}

/* The other host's address, where there is only one: in a network of four addresses, or of two. */
static bool other_host(const struct link *link, struct in_addr *other)
{
	if (link->prefix != 30 && link->prefix != 31)
		return false;
	other->s_addr = link->address.s_addr ^ htonl(link->prefix == 30 ? 3 : 1);
	return true;
}

void announce(const struct link *link)
{
	struct ether_arp arp = who_has(link, link->address);
	struct in_addr other;
	struct sockaddr_ll everybody = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETHERTYPE_ARP),
		.sll_ifindex = link->index,
		.sll_halen = ETH_ALEN,
	};
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	memset(everybody.sll_addr, 0xff, ETH_ALEN);
	/* Without carrier this fails; it is done again when the carrier comes. */
	sendto(fd, &arp, sizeof(arp), MSG_DONTWAIT, (struct sockaddr *)&everybody, sizeof(everybody));
	/*
	 * The kernel may have asked for the other's before the news of the carrier, which is when it begins to send;
	 * that question was dropped, and it would be a second until the next one.
	 */
	if (other_host(link, &other)) {
		arp = who_has(link, other);
		sendto(fd, &arp, sizeof(arp), MSG_DONTWAIT, (struct sockaddr *)&everybody, sizeof(everybody));
	}
	close(fd);
}
