/* SPDX-License-Identifier: Apache-2.0 */
/* Gives a link's interface, as it is when it appears, what the table says. */
#ifndef VPCTL_SETUP_H
#define VPCTL_SETUP_H

#include "links.h"
#include "netlink.h"

/* Name, MTU, address, and up; 0, or -1 with errno set. `fd` is a netlink socket for requests. Where the kernel has given
 * the name to another link's interface, which is to be set up yet, that one makes way.
 */
int set_up(int fd, const struct interface *interface, const struct link *link, struct links *links);

#endif
