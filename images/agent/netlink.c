// SPDX-License-Identifier: Apache-2.0
#include "netlink.h"

#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
	struct nlmsghdr header;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
	};
	char attributes[128];
};

int netlink_open(unsigned int groups)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = groups};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void add_attribute(struct request *request, unsigned short type, const void *data, size_t length)
{
	size_t offset = NLMSG_ALIGN(request->header.nlmsg_len);
	struct rtattr *attribute = (struct rtattr *)((char *)request + offset);

	attribute->rta_type = type;
	attribute->rta_len = (unsigned short)RTA_LENGTH(length);
	memcpy(RTA_DATA(attribute), data, length);
	request->header.nlmsg_len = (unsigned int)(offset + RTA_ALIGN(attribute->rta_len));
}

/* Waits for the kernel's word on a request: 0, or -1 with its errno. */
static int receive_ack(int fd)
{
	for (;;) {
		char buffer[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
		ssize_t length = recv(fd, buffer, sizeof(buffer), 0);
		struct nlmsghdr *message = (struct nlmsghdr *)buffer;

		if (length < 0 && errno == EINTR)
			continue;
		if (length < 0)
			return -1;
		if (!NLMSG_OK(message, (size_t)length) || message->nlmsg_type != NLMSG_ERROR)
			continue;
		errno = -((struct nlmsgerr *)NLMSG_DATA(message))->error;
		return errno ? -1 : 0;
	}
}

static int send_request(int fd, struct request *request)
{
	request->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(fd, request, request->header.nlmsg_len, 0) < 0)
		return -1;
	return receive_ack(fd);
}

static struct request link_request(int index)
{
	return (struct request){
		.header = {.nlmsg_type = RTM_NEWLINK, .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg))},
		.link = {.ifi_family = AF_UNSPEC, .ifi_index = index},
	};
}

int netlink_rename(int fd, int index, const char *name)
{
	struct request request = link_request(index);

	add_attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
	return send_request(fd, &request);
}

#define MARK "vpctl "

int netlink_mark(int fd, int index, const char *link)
{
	struct request request = link_request(index);
	char mark[sizeof(MARK) + IFNAMSIZ];

	snprintf(mark, sizeof(mark), MARK "%s", link);
	add_attribute(&request, IFLA_IFALIAS, mark, strlen(mark));
	return send_request(fd, &request);
}

int netlink_set_mtu(int fd, int index, unsigned int mtu)
{
	struct request request = link_request(index);

	add_attribute(&request, IFLA_MTU, &mtu, sizeof(mtu));
	return send_request(fd, &request);
}

static int change_flags(int fd, int index, unsigned int flags)
{
	struct request request = link_request(index);

	request.link.ifi_flags = flags;
	request.link.ifi_change = IFF_UP;
	return send_request(fd, &request);
}

int netlink_set_up(int fd, int index)
{
	return change_flags(fd, index, IFF_UP);
}

int netlink_set_down(int fd, int index)
{
	return change_flags(fd, index, 0);
}

int netlink_add_address(int fd, int index, struct in_addr address, unsigned int prefix)
{
	struct request request = {
		.header = {
			.nlmsg_type = RTM_NEWADDR,
			.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
			.nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE,
		},
		.address = {
			.ifa_family = AF_INET,
			.ifa_prefixlen = (unsigned char)prefix,
			.ifa_index = (unsigned int)index,
		},
	};

	add_attribute(&request, IFA_LOCAL, &address, sizeof(address));
	add_attribute(&request, IFA_ADDRESS, &address, sizeof(address));
	return send_request(fd, &request);
}

/* Says whether an interface of this kind sits on others. veth is the one virtual kind that takes a device's place. */
static bool is_stacked(const struct rtattr *info)
{
	const struct rtattr *nested = RTA_DATA(info);
	size_t length = RTA_PAYLOAD(info);

	for (; RTA_OK(nested, length); nested = RTA_NEXT(nested, length))
		if (nested->rta_type == IFLA_INFO_KIND)
			return strcmp(RTA_DATA(nested), "veth") != 0;
	return false;
}

static void parse_mark(const struct rtattr *attribute, struct interface *interface)
{
	const char *text = RTA_DATA(attribute);
	size_t length = strnlen(text, RTA_PAYLOAD(attribute)), mark = strlen(MARK);

	if (length <= mark || length - mark >= sizeof(interface->link) || memcmp(text, MARK, mark) != 0)
		return;
	memcpy(interface->link, text + mark, length - mark);
}

static void read_mac(const struct rtattr *attribute, uint8_t mac[6])
{
	if (RTA_PAYLOAD(attribute) == 6)
		memcpy(mac, RTA_DATA(attribute), 6);
}

static void parse_attribute(const struct rtattr *attribute, struct interface *interface)
{
	switch (attribute->rta_type) {
	case IFLA_ADDRESS:
		read_mac(attribute, interface->mac);
		break;
	case IFLA_PERM_ADDRESS:
		read_mac(attribute, interface->device_mac);
		break;
	case IFLA_IFALIAS:
		parse_mark(attribute, interface);
		break;
	case IFLA_MASTER:
		memcpy(&interface->master, RTA_DATA(attribute), sizeof(interface->master));
		break;
	case IFLA_NEW_NETNSID:
		interface->moves = true;
		break;
	case IFLA_IFNAME:
		strncpy(interface->name, RTA_DATA(attribute), sizeof(interface->name) - 1);
		break;
	case IFLA_MTU:
		memcpy(&interface->mtu, RTA_DATA(attribute), sizeof(interface->mtu));
		break;
	case IFLA_LINKINFO:
		interface->stacked = is_stacked(attribute);
		break;
	}
}

bool netlink_parse_interface(const struct nlmsghdr *message, struct interface *interface)
{
	const struct ifinfomsg *link = NLMSG_DATA(message);
	const struct rtattr *attribute = IFLA_RTA(link);
	size_t length;

	if (message->nlmsg_type != RTM_NEWLINK && message->nlmsg_type != RTM_DELLINK)
		return false;
	/* A bridge's news of its ports comes as the same message of family AF_BRIDGE. */
	if (link->ifi_family != AF_UNSPEC || link->ifi_type != ARPHRD_ETHER)
		return false;
	memset(interface, 0, sizeof(*interface));
	interface->index = link->ifi_index;
	interface->flags = link->ifi_flags;
	interface->carrier = link->ifi_flags & IFF_LOWER_UP;
	for (length = IFLA_PAYLOAD(message); RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length))
		parse_attribute(attribute, interface);
	if (memcmp(interface->device_mac, (const uint8_t[6]){0}, sizeof(interface->device_mac)) == 0)
		memcpy(interface->device_mac, interface->mac, sizeof(interface->device_mac));
	return true;
}

int netlink_get_interface(int fd, int index, struct interface *interface)
{
	static char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct request request = link_request(index);
	struct nlmsghdr *message = (struct nlmsghdr *)buffer;
	ssize_t length;

	request.header.nlmsg_type = RTM_GETLINK;
	request.header.nlmsg_flags = NLM_F_REQUEST;
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		return -1;
	do
		length = recv(fd, buffer, sizeof(buffer), 0);
	while (length < 0 && errno == EINTR);
	if (length < 0)
		return -1;
	if (NLMSG_OK(message, (size_t)length) && netlink_parse_interface(message, interface))
		return 0;
	errno = ENODEV;
	return -1;
}

/* Returns 1 at the end of a dump, 0 where more follows, -1 where it failed. */
static int parse_dump(const struct nlmsghdr *message, size_t length, interface_callback *callback, void *context)
{
	for (; NLMSG_OK(message, length); message = NLMSG_NEXT(message, length)) {
		struct interface interface;

		if (message->nlmsg_type == NLMSG_DONE)
			return 1;
		if (message->nlmsg_type == NLMSG_ERROR) {
			errno = -((struct nlmsgerr *)NLMSG_DATA(message))->error;
			return -1;
		}
		if (netlink_parse_interface(message, &interface))
			callback(&interface, context);
	}
	return 0;
}

/* The callback must not use the same descriptor: the dump is still being read from it. */
int netlink_each_interface(int fd, interface_callback *callback, void *context)
{
	struct request request = link_request(0);
	int done = 0;

	request.header.nlmsg_type = RTM_GETLINK;
	request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		return -1;
	while (!done) {
		static char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
		ssize_t length = recv(fd, buffer, sizeof(buffer), 0);

		if (length < 0 && errno == EINTR)
			continue;
		if (length < 0)
			return -1;
		done = parse_dump((struct nlmsghdr *)buffer, (size_t)length, callback, context);
	}
	return done < 0 ? -1 : 0;
}
