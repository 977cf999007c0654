// SPDX-License-Identifier: Apache-2.0
#include "interface.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "netlink.h"
#include "reader.h"

#define LOOK_AGAIN_US 5000
#define SEARCH_EVERY 20

/* Large enough for a burst of the largest messages: a slow guest must not lose what the link has brought. */
#define SOCKET_BUFFER (8 << 20)

static int request(const char *name, unsigned long number, struct ifreq *answer)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result;

	memset(answer, 0, sizeof(*answer));
	strncpy(answer->ifr_name, name, IFNAMSIZ - 1);
	result = fd < 0 ? -1 : ioctl(fd, number, answer);
	if (fd >= 0)
		close(fd);
	return result;
}

static uint64_t read_number(const char *name, const char *file)
{
	char path[128], text[32];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/sys/class/net/%s/%s", name, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	return strtoull(text, NULL, 10);
}

bool interface_has_address(const char *name, struct in_addr *address)
{
	struct ifreq answer;

	if (request(name, SIOCGIFADDR, &answer) < 0)
		return false;
	memcpy(address, &((struct sockaddr_in *)(void *)&answer.ifr_addr)->sin_addr, sizeof(*address));
	return true;
}

bool interface_has_carrier(const char *name)
{
	return read_number(name, "carrier") == 1;
}

bool interface_is_port(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/class/net/%s/master", name);
	return access(path, F_OK) == 0;
}

struct search {
	const char *link;
	char *name;
	bool found;
};

static void compare_mark(const struct interface *interface, void *context)
{
	struct search *search = context;

	if (search->found || strcmp(interface->link, search->link) != 0)
		return;
	snprintf(search->name, IFNAMSIZ, "%s", interface->name);
	search->found = true;
}

static bool find_mark(const char *link, char name[IFNAMSIZ])
{
	struct search search = {.link = link, .name = name};
	int index = (int)if_nametoindex(link), fd = netlink_open(0);
	struct interface bearer;

	if (fd < 0)
		return false;
	/* As a rule the two are one, and no others have to be looked at. */
	if (index && netlink_get_interface(fd, index, &bearer) == 0)
		compare_mark(&bearer, &search);
	if (!search.found)
		netlink_each_interface(fd, compare_mark, &search);
	close(fd);
	return search.found;
}

bool interface_find(const char *link, char name[IFNAMSIZ])
{
	if (find_mark(link, name))
		return true;
	if (!if_nametoindex(link))
		return false;
	snprintf(name, IFNAMSIZ, "%s", link);
	return true;
}

static const char *what_is_missing(const char *name, struct in_addr *address)
{
	if (address && !interface_has_address(name, address))
		return "the interface has no address";
	if (!interface_has_carrier(name))
		return "the interface has no carrier";
	return NULL;
}

int interface_wait(const char *link, char name[IFNAMSIZ], int64_t deadline_us, struct in_addr *address,
		   const char **missing)
{
	for (int look = 0;; look++) {
		/* All interfaces are asked for seldom: mostly it is a device that is still to come. */
		bool found = (look % SEARCH_EVERY == 0 || if_nametoindex(link)) && interface_find(link, name);

		*missing = found ? what_is_missing(name, address) : "no such interface";
		if (!*missing)
			return 0;
		if (now_us() >= deadline_us || reader_is_gone())
			return -1;
		sleep_us(LOOK_AGAIN_US);
	}
}

void interface_mac(const char *name, char text[18])
{
	const uint8_t *mac;
	struct ifreq answer;

	text[0] = '\0';
	if (request(name, SIOCGIFHWADDR, &answer) < 0)
		return;
	mac = (const uint8_t *)answer.ifr_hwaddr.sa_data;
	snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static uint64_t read_counter(const char *name, enum direction direction, const char *what)
{
	char file[64];

	snprintf(file, sizeof(file), "statistics/%s_%s", direction == SENT ? "tx" : "rx", what);
	return read_number(name, file);
}

struct counters interface_counters(const char *name, enum direction direction)
{
	return (struct counters){
		.packets = read_counter(name, direction, "packets"),
		.bytes = read_counter(name, direction, "bytes"),
		.dropped = read_counter(name, direction, "dropped"),
		.errors = read_counter(name, direction, "errors"),
	};
}

uint64_t interface_received(const char *name)
{
	return read_counter(name, RECEIVED, "packets");
}

struct counters counters_since(const struct counters *now, const struct counters *then)
{
	return (struct counters){
		.packets = now->packets - then->packets,
		.bytes = now->bytes - then->bytes,
		.dropped = now->dropped - then->dropped,
		.errors = now->errors - then->errors,
	};
}

void counters_print(const struct counters *counters, enum direction direction)
{
	const char *prefix = direction == SENT ? "tx" : "rx";

	printf("\"counters\":{\"%s_packets\":%" PRIu64 ",\"%s_bytes\":%" PRIu64 ",\"%s_dropped\":%" PRIu64
	       ",\"%s_errors\":%" PRIu64 "}",
	       prefix, counters->packets, prefix, counters->bytes, prefix, counters->dropped, prefix, counters->errors);
}

int interface_socket(const char *name, int type, int protocol)
{
	int size = SOCKET_BUFFER;
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name) + 1) < 0) {
		close(fd);
		return -1;
	}
	/* FORCE: root is not bound by the system's limit. Without root the limit has to do. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	return fd;
}
