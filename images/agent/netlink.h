/* SPDX-License-Identifier: Apache-2.0 */
/* The few rtnetlink requests that naming and addressing an interface take. */
#ifndef VPCTL_NETLINK_H
#define VPCTL_NETLINK_H

#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct interface {
	int index;
	unsigned int flags;
	unsigned int mtu;
	uint8_t mac[6];
	/* The device's own, whatever a user or a bond has made of the one above; the same where the kernel tells of none. */
	uint8_t device_mac[6];
	char name[IFNAMSIZ];
	/* What an agent has written to it; empty: none has set it up. */
	char link[IFNAMSIZ];
	/* The index of what it is a port of; 0: nothing. */
	int master;
	bool carrier;
	/* A bridge, VLAN or the like: it may carry the MAC of the device below it, and is not that device. */
	bool stacked;
	/* It leaves for another network namespace. */
	bool moves;
};

typedef void interface_callback(const struct interface *interface, void *context);

/* All but netlink_parse_interface return 0 (or a descriptor), or -1 with errno set. */
int netlink_open(unsigned int groups);
int netlink_each_interface(int fd, interface_callback *callback, void *context);
/* Reads what an interface is now. */
int netlink_get_interface(int fd, int index, struct interface *interface);
/* True where the message is about an Ethernet interface. */
bool netlink_parse_interface(const struct nlmsghdr *message, struct interface *interface);
int netlink_rename(int fd, int index, const char *name);
/* Writes to the interface, for an agent that comes later, which link it was set up for. `ip link` shows it as an alias. */
int netlink_mark(int fd, int index, const char *link);
int netlink_set_mtu(int fd, int index, unsigned int mtu);
int netlink_set_up(int fd, int index);
int netlink_set_down(int fd, int index);
int netlink_add_address(int fd, int index, struct in_addr address, unsigned int prefix);

#endif
