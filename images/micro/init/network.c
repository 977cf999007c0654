// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "init.h"
#include "netlink.h"

/* The host's side of the contract: QEMU's user network, which always has this address for the guest. */
static const uint8_t management_mac[6] = {0x52, 0x56, 0x00, 0x00, 0x00, 0x01};
#define MANAGEMENT_NAME "mgmt"
#define MANAGEMENT_ADDRESS "10.0.2.15"
#define MANAGEMENT_PREFIX 24

static void find_management(const struct interface *interface, void *context)
{
	if (memcmp(interface->mac, management_mac, sizeof(management_mac)) == 0 && !interface->stacked)
		*(struct interface *)context = *interface;
}

/* Not the agent's job, so that a broken agent still leaves a guest that can be logged into. */
void configure_management(void)
{
	struct interface interface = {0};
	struct in_addr address;
	int fd = netlink_open(0);

	if (fd < 0)
		return;
	netlink_set_up(fd, 1); /* lo is always index 1 */
	netlink_each_interface(fd, find_management, &interface);
	inet_pton(AF_INET, MANAGEMENT_ADDRESS, &address);
	if (interface.index &&
	    (netlink_rename(fd, interface.index, MANAGEMENT_NAME) < 0 ||
	     netlink_add_address(fd, interface.index, address, MANAGEMENT_PREFIX) < 0 ||
	     netlink_set_up(fd, interface.index) < 0))
		say("vpctl: cannot configure the management network");
	close(fd);
}
