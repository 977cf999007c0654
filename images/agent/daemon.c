// SPDX-License-Identifier: Apache-2.0
/* Gives each link's interface its name, MTU and address as soon as it appears, and beats the heart. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agent.h"
#include "announce.h"
#include "echo.h"
#include "heartbeat.h"
#include "interface.h"
#include "netlink.h"
#include "packets.h"
#include "setup.h"

#define DEFAULT_LINKS "/run/vpctl/links"
#define BEAT_MS 1000

/* Of beats: more would not tell more. */
#define SILENT_MAX 9999

#define ECHOES_AT_ONCE 32

struct watch {
	struct links links;
	struct heartbeat heartbeat;
	int events; /* netlink: interfaces come and go */
	int timer; /* for the beats */
	int requests; /* netlink: our own requests, so that their answers do not mix with events */
	bool changed; /* something about a link's interface, since the last beat */
	bool begins; /* no survey has been made yet: what is set up is a former agent's work */
	char moved[PATH_MAX]; /* where the links' names are kept that a user has moved, for an agent that comes later */
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

/* Keeps the socket for the other end's echo requests as the interface is now; a port needs another one. */
static void hear_echoes(struct link *link, bool port)
{
	if (link->echoes >= 0)
		close(link->echoes);
	link->echoes = link->index ? packets_open(link->index, ECHO_ETHERTYPE, port) : -1;
}

static void read_master(const struct interface *interface, char master[IFNAMSIZ])
{
	memset(master, 0, IFNAMSIZ);
	if (interface->master && !if_indextoname((unsigned int)interface->master, master))
		strcpy(master, "?");
}

/* Takes in what an interface is now, whether this agent or another program has made it so. */
static void follow(struct link *link, const struct interface *interface, struct watch *watch)
{
	bool up = interface->flags & IFF_UP;
	bool other_mac = memcmp(link->mac_now, interface->mac, sizeof(interface->mac)) != 0;
	char master[IFNAMSIZ];

	read_master(interface, master);
	if (link->up != up || link->carrier != interface->carrier) {
		link->silent = 0;
		watch->changed = true;
	}
	if (other_mac || strcmp(link->name_now, interface->name) != 0 || strcmp(link->master, master) != 0)
		watch->changed = true;
	if (link->echoes < 0 || !link->master[0] != !master[0])
		hear_echoes(link, master[0]);
	strcpy(link->name_now, interface->name);
	memcpy(link->mac_now, interface->mac, sizeof(link->mac_now));
	strcpy(link->master, master);
	/* The other end knows another MAC only once it is told: for half a minute it would ask for none. */
	if (interface->carrier && (!link->carrier || other_mac) && !link->master[0])
		announce(link);
	link->up = up;
	link->carrier = interface->carrier;
}

/* Whether anything has come since the last beat. Where nothing has, the other end is asked for its address: if there is
 * an answer, or a question from there, it has come by the next beat. A port has no address to ask with.
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
	if (received != link->received || link->readdressed || link->master[0]) {
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

/* An interface's link: the one that it was set up for, the one that a former agent wrote to it, the one whose MAC its device
 * has. In that order: a bond gives all of its ports one MAC, and old kernels do not tell the device's own.
 */
static struct link *find_link(struct links *links, const struct interface *interface)
{
	struct link *link = links_by_index(links, interface->index);

	if (!link && interface->link[0])
		link = links_by_name(links, interface->link);
	return link ? link : links_by_mac(links, interface->device_mac);
}

/* From this network namespace no interface of another one can be seen. */
static void keep_moved(const struct watch *watch)
{
	FILE *file = fopen(watch->moved, "we");

	if (!file)
		return; /* then the next agent says that they are gone */
	for (size_t i = 0; i < watch->links.count; i++)
		if (watch->links.link[i].moved)
			fprintf(file, "%s\n", watch->links.link[i].name);
	fclose(file);
}

static void take(struct link *link, const struct interface *interface, struct watch *watch)
{
	link->index = interface->index;
	link->up = link->carrier = link->readdressed = false;
	link->silent = 0;
	link->received = 0;
	link->name_now[0] = link->master[0] = '\0';
	watch->changed = true;
	if (link->moved) {
		link->moved = false;
		keep_moved(watch);
	}
	follow(link, interface, watch);
}

/* Sets a link up once per interface: what people change on a running one later is theirs, and so is one that is a port of
 * something when it is met. One that a former agent has set up is taken as it is, but not when it comes back from another
 * network namespace, which takes its addresses away.
 */
static void meet(const struct interface *interface, struct watch *watch)
{
	struct link *link = interface->stacked ? NULL : find_link(&watch->links, interface);
	struct interface now = *interface;

	if (!link)
		return;
	if (link->index == interface->index) {
		follow(link, interface, watch);
		return;
	}
	if (link->index)
		return; /* another one's with the same MAC */
	if (!interface->master && !(watch->begins && interface->link[0] && !link->moved)) {
		if (set_up(watch->requests, interface, link, &watch->links) < 0) {
			/* Tried again at the next beat: the name's last bearer may still be on its way out. */
			fprintf(stderr, "vpctl-agent: %s: %s\n", link->name, strerror(errno));
			return;
		}
		/* News of it need not follow: it may have been up, and with carrier, all along. */
		if (netlink_get_interface(watch->requests, interface->index, &now) < 0)
			return;
	}
	take(link, &now, watch);
}

static void recall_moved(struct watch *watch)
{
	FILE *file = fopen(watch->moved, "re");
	char line[IFNAMSIZ + 1];
	struct link *link;

	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		link = links_by_name(&watch->links, line);
		if (link)
			link->moved = true;
	}
	fclose(file);
}

static void leave(struct link *link, bool moves, struct watch *watch)
{
	bool news = link->moved != moves;

	link->index = 0;
	link->moved = moves;
	hear_echoes(link, false);
	watch->changed = true;
	if (news)
		keep_moved(watch);
}

static void miss(const struct interface *interface, struct watch *watch)
{
	struct link *link = links_by_index(&watch->links, interface->index);

	if (link)
		leave(link, interface->moves, watch);
}

struct listing {
	struct links *links;
	struct interface interfaces[2 * LINKS_MAX];
	size_t count;
};

static void list(const struct interface *interface, void *context)
{
	struct listing *listing = context;

	/* A guest may have any number of others. */
	if (interface->stacked || !find_link(listing->links, interface))
		return;
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

	listing.links = &watch->links;
	listing.count = 0;
	if (netlink_each_interface(watch->requests, list, &listing) < 0)
		return;
	for (size_t i = 0; i < watch->links.count; i++) {
		struct link *link = &watch->links.link[i];

		if (link->index && !is_listed(&listing, link->index))
			leave(link, false, watch);
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
		if (!links->link[i].index && !links->link[i].moved)
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

/* Answers the other ends' echo requests, a few each time: beats and interfaces have their turn as well. */
static void answer_echoes(struct link *link)
{
	uint8_t frame[2048];
	ssize_t length;

	for (int i = 0; i < ECHOES_AT_ONCE; i++) {
		struct echo *echo = (struct echo *)frame;

		length = recv(link->echoes, frame, sizeof(frame), MSG_DONTWAIT);
		if (length < 0)
			return; /* none is left, or the interface was set down, which is news of its own */
		if ((size_t)length < sizeof(*echo) || !echo_is_for(echo, link->mac))
			continue;
		echo_reply(echo, link->mac_now);
		packets_send(link->echoes, link->index, echo, sizeof(*echo));
	}
}

static void wait_for_news(struct watch *watch, struct pollfd *polled)
{
	size_t count = watch->links.count;

	for (size_t i = 0; i < count; i++)
		polled[i] = (struct pollfd){.fd = watch->links.link[i].echoes, .events = POLLIN};
	polled[count] = (struct pollfd){.fd = watch->events, .events = POLLIN};
	polled[count + 1] = (struct pollfd){.fd = watch->timer, .events = POLLIN};
	if (poll(polled, count + 2, -1) < 0)
		for (size_t i = 0; i < count + 2; i++)
			polled[i].revents = 0;
}

static _Noreturn void watch_forever(struct watch *watch)
{
	static struct pollfd polled[LINKS_MAX + 2];
	struct links *links = &watch->links;
	uint64_t ticks;

	watch->begins = true;
	recall_moved(watch);
	survey(watch);
	watch->begins = false;
	heartbeat_beat(&watch->heartbeat, links);
	for (;;) {
		bool beat;

		watch->changed = false;
		wait_for_news(watch, polled);
		/* First, as an interface's news may close its socket. */
		for (size_t i = 0; i < links->count; i++)
			if (polled[i].revents)
				answer_echoes(&links->link[i]);
		beat = read(watch->timer, &ticks, sizeof(ticks)) == sizeof(ticks);
		if (polled[links->count].revents)
			read_events(watch);
		if (beat && !all_are_set_up(links))
			survey(watch);
		if (beat)
			listen_to_all(links);
		if (beat || watch->changed)
			heartbeat_beat(&watch->heartbeat, links);
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
	snprintf(watch.moved, sizeof(watch.moved), "%s.moved", links);
	signal(SIGPIPE, SIG_IGN);
	/* Listening comes before the first survey, so that no interface falls between the two. */
	watch.events = netlink_open(RTMGRP_LINK);
	watch.requests = netlink_open(0);
	watch.timer = open_timer();
	if (watch.events < 0 || watch.requests < 0 || watch.timer < 0) {
		perror("vpctl-agent");
		return 1;
	}
	heartbeat_init(&watch.heartbeat, port);
	watch_forever(&watch);
}
