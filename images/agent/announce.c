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

	/* What it has now: with the table's, a peer would go on to send to a MAC that a user has changed. */
	memcpy(arp.arp_sha, link->mac_now, ETH_ALEN);
	memcpy(arp.arp_spa, &link->address, sizeof(link->address));
	memcpy(arp.arp_tpa, &target, sizeof(target));
	return arp;
}

/* Without carrier this fails; it is done again when the carrier comes. */
static void ask(const struct link *link, const struct in_addr *whom, size_t count)
{
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
	for (size_t i = 0; i < count; i++) {
		struct ether_arp arp = who_has(link, whom[i]);

		sendto(fd, &arp, sizeof(arp), MSG_DONTWAIT, (struct sockaddr *)&everybody, sizeof(everybody));
	}
	close(fd);
}

void announce(const struct link *link)
{
	/*
	 * One's own, which is not answered. The other's too: the kernel may have asked for it before the news of the
	 * carrier, which is when it begins to send; that question was dropped, and it would be a second until the next.
	 */
	const struct in_addr whom[] = {link->address, link->peer};

	ask(link, whom, link->peer.s_addr ? 2 : 1);
}

void ask_peer(const struct link *link)
{
	ask(link, &link->peer, 1);
}
