/* SPDX-License-Identifier: Apache-2.0 */
/* Packet sockets on one interface, for frames of one EtherType: whatever addresses, routes and firewall the guest has. */
#ifndef VPCTL_PACKETS_H
#define VPCTL_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Returns a socket that receives and sends whole frames, or -1 with errno set. `port`: the interface belongs to a bridge,
 * bond or the like, which may take its packets before a socket for their type sees them; then it sees all, and drops the
 * others. That costs each of the interface's packets a filter, so it is for ports only.
 */
int packets_open(int index, uint16_t type, bool port);
/* Returns true, or false with errno set. Never blocks. */
bool packets_send(int fd, int index, const void *frame, size_t size);

#endif
