/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a VM's links, plugged or not: one line each, "MAC NAME ADDRESS/PREFIX MTU [PEER]". Pure. */
#ifndef VPCTL_LINKS_H
#define VPCTL_LINKS_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINKS_MAX 64

struct link {
	uint8_t mac[6];
	char name[IFNAMSIZ];
	struct in_addr address;
	unsigned int prefix;
	unsigned int mtu;
	/* The other end's address; 0: it has none. */
	struct in_addr peer;
	/* Its interface; 0 while it is not here. */
	int index;
	/* It was up, and had carrier, when last heard of; and its first address was another one at the last beat. */
	bool up, carrier, readdressed;
	/* A user has moved its interface to another network namespace. */
	bool moved;
	/* What a user has made of it, if anything: its name and MAC now, and the bridge, bond or the like it is a port of. */
	char name_now[IFNAMSIZ];
	uint8_t mac_now[6];
	char master[IFNAMSIZ];
	/* Where the other end's echo requests come in; -1: nowhere. */
	int echoes;
	/* Beats in a row at which nothing had come since the one before, though the other end was asked. */
	unsigned int silent;
	/* Packets that had come by the last beat. */
	uint64_t received;
};

struct links {
	struct link link[LINKS_MAX];
	size_t count;
};

/* Returns 0, or the number of the first line that is wrong. Empty lines and # comments are skipped. */
int links_parse(const char *text, struct links *links);
struct link *links_by_mac(struct links *links, const uint8_t mac[6]);
struct link *links_by_name(struct links *links, const char *name);
struct link *links_by_index(struct links *links, int index);
int parse_mac(const char *text, uint8_t mac[6]);

#endif
