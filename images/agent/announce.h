/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VPCTL_ANNOUNCE_H
#define VPCTL_ANNOUNCE_H

#include "links.h"

/* Tells the other end of a link, by a gratuitous ARP request, where the address now is, and asks for the other's. The
 * end that was ready first has got no answer to its own request, and its kernel asks again only after a second.
 */
void announce(const struct link *link);
/* Asks for the other end's address, which its kernel answers by itself; for links that have one. */
void ask_peer(const struct link *link);

#endif
