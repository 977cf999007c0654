// SPDX-License-Identifier: Apache-2.0
/* Gives each link's interface its name, MTU and address as soon as it appears, and beats the heart. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agent.h"
#include "announce.h"
#include "heartbeat.h"
#include "interface.h"
#include "netlink.h"

#define DEFAULT_LINKS "/run/vpctl/links"
#define BEAT_MS 1000

/* Of beats: more would not tell more. */
#define SILENT_MAX 9999

struct watch {
	struct links links;
	struct heartbeat heartbeat;
	int events; /* netlink: interfaces come and go */
	int requests; /* netlink: our own requests, so that their answers do not mix with events */
	bool changed; /* some link's set-up, since the last beat */
};

static int read_links(const char *path, struct links *links)
{
	static char text[16384];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;
	int line;

	links->count = 0;
	if (fd < 0)
		return errno == ENOENT ? 0 : -1; /* a VM without links is a VM */
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length < 0)
		return -1;
	text[length] = '\0';
	line = links_parse(text, links);
	if (line)
		fprintf(stderr, "vpctl-agent: %s:%d: not MAC NAME ADDRESS/PREFIX MTU [PEER]\n", path, line);
	return line ? -1 : 0;
}

/* The kernel renames an interface only while it is down. */
static int rename_interface(int fd, const struct interface *interface, const char *name)
{
	if (strcmp(interface->name, name) == 0)
		return 0;
	if (interface->flags & IFF_UP && netlink_set_down(fd, interface->index) < 0)
		return -1;
	return netlink_rename(fd, interface->index, name);
}

static int set_up(int fd, const struct interface *interface, const struct link *link)
{
	if (rename_interface(fd, interface, link->name) < 0)
		return -1;
	if (interface->mtu != link->mtu && netlink_set_mtu(fd, interface->index, link->mtu) < 0)
		return -1;
	if (netlink_add_address(fd, interface->index, link->address, link->prefix) < 0)
		return -1;
	return netlink_set_up(fd, interface->index);
}

static void follow(struct link *link, const struct interface *interface, struct watch *watch)
{
	bool up = interface->flags & IFF_UP;

	if (interface->carrier && !link->carrier)
		announce(link);
	if (link->up != up || link->carrier != interface->carrier) {
		link->silent = 0;
		watch->changed = true;
	}
	link->up = up;
	link->carrier = interface->carrier;
}

/* Whether anything has come since the last beat. Where nothing has, the other end is asked for its address: if there is
 * an answer, or a question from there, it has come by the next beat.
 */
static void listen_to(struct link *link)
{
	struct in_addr address;
	uint64_t received;
	char name[IFNAMSIZ];

	if (!link->carrier || !link->peer.s_addr || !if_indextoname((unsigned int)link->index, name))
		return;
	link->readdressed = !interface_has_address(name, &address) || address.s_addr != link->address.s_addr;
	received = interface_received(name);
	if (received != link->received || link->readdressed) {
		link->received = received;
		link->silent = 0;
		return;
	}
	if (link->silent < SILENT_MAX)
		link->silent++;
	ask_peer(link);
}

static void listen_to_all(struct links *links)
{
	for (size_t i = 0; i < links->count; i++)
		if (links->link[i].index)
			listen_to(&links->link[i]);
}

/* Sets a link up once per interface: what people change on a running one later is theirs. */
static void meet(const struct interface *interface, struct watch *watch)
{
	struct link *link = interface->stacked ? NULL : links_by_mac(&watch->links, interface->mac);

	if (!link)
		return;
	if (link->index == interface->index) {
		follow(link, interface, watch);
		return;
	}
	if (set_up(watch->requests, interface, link) < 0) {
		/* Tried again at the next beat: the name's last bearer may still be on its way out. */
		fprintf(stderr, "vpctl-agent: %s: %s\n", link->name, strerror(errno));
		return;
	}
	link->index = interface->index;
	/* That it is up, and with carrier, is news that is still to come; then it is announced. */
	link->up = link->carrier = link->readdressed = false;
	link->silent = 0;
	link->received = 0;
	watch->changed = true;
}

static void miss(const struct interface *interface, struct watch *watch)
{
	struct link *link = links_by_index(&watch->links, interface->index);

	if (!link)
		return;
	link->index = 0;
	watch->changed = true;
}

struct listing {
	struct interface interfaces[2 * LINKS_MAX];
	size_t count;
};

static void list(const struct interface *interface, void *context)
{
	struct listing *listing = context;

	if (listing->count < sizeof(listing->interfaces) / sizeof(*listing->interfaces))
		listing->interfaces[listing->count++] = *interface;
}

static bool is_listed(const struct listing *listing, int index)
{
	for (size_t i = 0; i < listing->count; i++)
		if (listing->interfaces[i].index == index)
			return true;
	return false;
}

/* Compares everything with the table: at the start, after lost events, and as long as a link is still missing. */
static void survey(struct watch *watch)
{
	static struct listing listing;

	listing.count = 0;
	if (netlink_each_interface(watch->requests, list, &listing) < 0)
		return;
	for (size_t i = 0; i < watch->links.count; i++) {
		struct link *link = &watch->links.link[i];

		if (link->index && !is_listed(&listing, link->index)) {
			link->index = 0;
			watch->changed = true;
		}
	}
	for (size_t i = 0; i < listing.count; i++)
		meet(&listing.interfaces[i], watch);
}

static void read_events(struct watch *watch)
{
	static char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
	ssize_t length = recv(watch->events, buffer, sizeof(buffer), MSG_DONTWAIT);
	size_t left = length > 0 ? (size_t)length : 0;

	if (length < 0 && errno == ENOBUFS) {
		survey(watch);
		return;
	}
	for (struct nlmsghdr *message = (struct nlmsghdr *)buffer; NLMSG_OK(message, left);
	     message = NLMSG_NEXT(message, left)) {
		struct interface interface;

		if (!netlink_parse_interface(message, &interface))
			continue;
		if (message->nlmsg_type == RTM_DELLINK)
			miss(&interface, watch);
		else
			meet(&interface, watch);
	}
}

static bool all_are_set_up(const struct links *links)
{
	for (size_t i = 0; i < links->count; i++)
		if (!links->link[i].index)
			return false;
	return true;
}

static int open_timer(void)
{
	const struct itimerspec every = {
		.it_interval = {.tv_sec = BEAT_MS / 1000},
		.it_value = {.tv_sec = BEAT_MS / 1000},
	};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd >= 0 && timerfd_settime(fd, 0, &every, NULL) < 0)
		return -1;
	return fd;
}

static int watch_forever(struct watch *watch)
{
	struct pollfd polled[] = {{.fd = watch->events, .events = POLLIN}, {.fd = open_timer(), .events = POLLIN}};
	uint64_t ticks;

	survey(watch);
	heartbeat_beat(&watch->heartbeat, &watch->links);
	for (;;) {
		bool beat;

		watch->changed = false;
		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			return 1;
		beat = read(polled[1].fd, &ticks, sizeof(ticks)) == sizeof(ticks);
		if (polled[0].revents)
			read_events(watch);
		if (beat && !all_are_set_up(&watch->links))
			survey(watch);
		if (beat)
			listen_to_all(&watch->links);
		if (beat || watch->changed)
			heartbeat_beat(&watch->heartbeat, &watch->links);
	}
}

int daemon_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"links", required_argument, NULL, 'l'},
		{"port", required_argument, NULL, 'p'},
		{0},
	};
	static struct watch watch;
	const char *links = DEFAULT_LINKS, *port = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'l')
			links = optarg;
		else if (option == 'p')
			port = optarg;
		else
			return EXIT_USAGE;
	}
	if (read_links(links, &watch.links) < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	/* Listening comes before the first survey, so that no interface falls between the two. */
	watch.events = netlink_open(RTMGRP_LINK);
	watch.requests = netlink_open(0);
	if (watch.events < 0 || watch.requests < 0) {
		perror("vpctl-agent: netlink");
		return 1;
	}
	heartbeat_init(&watch.heartbeat, port);
	return watch_forever(&watch);
}
