// SPDX-License-Identifier: Apache-2.0
#include "setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The kernel renames an interface only while it is down. */
static int rename_interface(int fd, const struct interface *interface, const char *name)
{
	if (interface->flags & IFF_UP && netlink_set_down(fd, interface->index) < 0)
		return -1;
	return netlink_rename(fd, interface->index, name);
}

/* The kernel counts interfaces as they appear: links called eth1 and eth2 may have got each other's name. Only what is
 * another link's and still to be set up is renamed; it gets its own name in its turn.
 */
static int make_way(int fd, const char *name, struct links *links)
{
	int index = (int)if_nametoindex(name);
	struct interface bearer;
	char spare[IFNAMSIZ];
	struct link *link;

	if (!index || netlink_get_interface(fd, index, &bearer) < 0)
		return -1;
	link = bearer.stacked || bearer.master || bearer.link[0] ? NULL : links_by_mac(links, bearer.device_mac);
	if (!link || link->index) {
		errno = EEXIST;
		return -1;
	}
	snprintf(spare, sizeof(spare), "vpctl%d", index);
	return rename_interface(fd, &bearer, spare);
}

static int take_name(int fd, const struct interface *interface, const char *name, struct links *links)
{
	if (strcmp(interface->name, name) == 0)
		return 0;
	if (rename_interface(fd, interface, name) == 0)
		return 0;
	if (errno != EEXIST || make_way(fd, name, links) < 0)
		return -1;
	return netlink_rename(fd, interface->index, name);
}

int set_up(int fd, const struct interface *interface, const struct link *link, struct links *links)
{
	if (take_name(fd, interface, link->name, links) < 0)
		return -1;
	if (interface->mtu != link->mtu && netlink_set_mtu(fd, interface->index, link->mtu) < 0)
		return -1;
	if (netlink_add_address(fd, interface->index, link->address, link->prefix) < 0 ||
	    netlink_set_up(fd, interface->index) < 0)
		return -1;
	/* A kernel that does not keep it has the next agent set the interface up again, and that is all. */
	netlink_mark(fd, interface->index, link->name);
	return 0;
}
