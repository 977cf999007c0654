// SPDX-License-Identifier: Apache-2.0
#include "announce.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/if_ether.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ether_arp gratuitous_request(const struct link *link)
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
	memcpy(arp.arp_tpa, &link->address, sizeof(link->address));
	return arp;
}

void announce(const struct link *link)
{
	const struct ether_arp arp = gratuitous_request(link);
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
	close(fd);
}
