/* SPDX-License-Identifier: Apache-2.0 */
/* A link's interface by its name: is it there, what has it, what has it counted; and sockets that use no other. */
#ifndef VPCTL_INTERFACE_H
#define VPCTL_INTERFACE_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum direction { RECEIVED, SENT };

struct counters {
	uint64_t packets, bytes, dropped, errors;
};

bool interface_has_address(const char *name, struct in_addr *address);
/* The device's own word. IFF_RUNNING would come up to a second later: the kernel delays the news of it. */
bool interface_has_carrier(const char *name);
/* A bridge's, a bond's or the like's. */
bool interface_is_port(const char *name);
/* Finds a link's interface: the one that was set up for it, whatever a user calls it and others now, or else the one that
 * has its name.
 */
bool interface_find(const char *link, char name[IFNAMSIZ]);
/* Waits until a link's interface is there, up, and has carrier and, unless that is NULL, an address; -1 with a word of what is missing after it,
 * or when our reader is gone. */
int interface_wait(const char *link, char name[IFNAMSIZ], int64_t deadline_us, struct in_addr *address, const char **missing);
void interface_mac(const char *name, char text[18]);
struct counters interface_counters(const char *name, enum direction direction);
uint64_t interface_received(const char *name); /* packets */
struct counters counters_since(const struct counters *now, const struct counters *then);
/* Prints `"counters":{"rx_packets":N,…}`. */
void counters_print(const struct counters *counters, enum direction direction);
/* Returns a socket bound to the interface, or -1. */
int interface_socket(const char *name, int type, int protocol);

#endif
