// SPDX-License-Identifier: Apache-2.0
#include "heartbeat.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME "org.vpctl.heartbeat"
#define PORTS "/sys/class/virtio-ports"

static int format_state(char *text, size_t size, const struct link *link)
{
	if (link->moved)
		return snprintf(text, size, "%s:moved", link->name);
	if (!link->up)
		return snprintf(text, size, "%s:down", link->name);
	if (!link->carrier)
		return snprintf(text, size, "%s:no-carrier", link->name);
	if (link->readdressed)
		return snprintf(text, size, "%s:readdressed", link->name);
	return snprintf(text, size, "%s:%u", link->name, link->silent);
}

/* A name that is the user's choice, without what separates words here. */
static void add_name(char *text, size_t size, const char *key, const char *name)
{
	size_t used = strlen(text);
	int length = snprintf(text + used, size - used, ";%s=%s", key, name);

	if (length < 0)
		return;
	for (char *c = text + used + 2 + strlen(key); *c; c++)
		if (*c <= ' ' || *c > '~' || strchr(",;=", *c))
			*c = '?';
}

/* What a user has made of it, if it is not as the table has it. */
static void format_changes(char *text, size_t size, const struct link *link)
{
	const uint8_t *mac = link->mac_now;
	char hexadecimal[18];

	text[0] = '\0';
	if (!link->index)
		return;
	if (link->name_now[0] && strcmp(link->name_now, link->name) != 0)
		add_name(text, size, "name", link->name_now);
	if (link->master[0])
		add_name(text, size, "master", link->master);
	if (memcmp(mac, link->mac, sizeof(link->mac)) != 0) {
		snprintf(hexadecimal, sizeof(hexadecimal), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
			 mac[3], mac[4], mac[5]);
		add_name(text, size, "mac", hexadecimal);
	}
}

/* Every link's state has room in a line; of changes so many as there is room left for. */
#define STATE_MAX (IFNAMSIZ + sizeof(":readdressed,"))

static int format_link(char *text, size_t size, const struct link *link, size_t links_left)
{
	char changes[96];
	int used = format_state(text, size, link);

	format_changes(changes, sizeof(changes), link);
	if (used < 0 || (size_t)used + strlen(changes) + links_left * STATE_MAX >= size)
		return used;
	return used + snprintf(text + used, size - (size_t)used, "%s", changes);
}

size_t heartbeat_format(char *line, size_t size, uint64_t sequence, uint64_t uptime_ms, const char *boot_id,
			const struct links *links)
{
	const char *separator = "";
	int used = snprintf(line, size, "vpctl1 seq=%" PRIu64 " uptime_ms=%" PRIu64 " boot_id=%s links=", sequence,
			    uptime_ms, boot_id);

	for (size_t i = 0; i < links->count && used >= 0 && (size_t)used < size; i++) {
		if (!links->link[i].index && !links->link[i].moved)
			continue;
		used += snprintf(line + used, size - (size_t)used, "%s", separator);
		if ((size_t)used < size)
			used += format_link(line + used, size - (size_t)used, &links->link[i], links->count - i);
		separator = ",";
	}
	if (used < 0 || (size_t)used > size - 2)
		used = (int)size - 2;
	line[used] = '\n';
	return (size_t)used + 1;
}

static void read_word(const char *path, char *word, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, word, size - 1);

	if (fd >= 0)
		close(fd);
	word[length > 0 ? length : 0] = '\0';
	word[strcspn(word, "\n")] = '\0';
}

void heartbeat_init(struct heartbeat *heartbeat, const char *path)
{
	heartbeat->path = path;
	heartbeat->fd = -1;
	heartbeat->sequence = 0;
	read_word("/proc/sys/kernel/random/boot_id", heartbeat->boot_id, sizeof(heartbeat->boot_id));
}

/* There is no udev here to make a link of the port's name: the name is in sysfs. */
static int find_port(char *path, size_t size)
{
	DIR *ports = opendir(PORTS);
	struct dirent *entry;
	int found = -1;

	if (!ports)
		return -1;
	while (found < 0 && (entry = readdir(ports))) {
		char file[300], name[64];

		snprintf(file, sizeof(file), PORTS "/%s/name", entry->d_name);
		read_word(file, name, sizeof(name));
		if (strcmp(name, PORT_NAME) != 0)
			continue;
		snprintf(path, size, "/dev/%s", entry->d_name);
		found = 0;
	}
	closedir(ports);
	return found;
}

static int open_port(const char *path)
{
	char found[300];

	if (!path) {
		if (find_port(found, sizeof(found)) < 0)
			return -1;
		path = found;
	}
	return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static uint64_t uptime_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void heartbeat_beat(struct heartbeat *heartbeat, const struct links *links)
{
	char line[HEARTBEAT_LINE];
	size_t length;

	/* The port may come later than the agent, or be unplugged: it is looked for again at every beat. */
	if (heartbeat->fd < 0)
		heartbeat->fd = open_port(heartbeat->path);
	if (heartbeat->fd < 0)
		return;
	length = heartbeat_format(line, sizeof(line), heartbeat->sequence++, uptime_ms(), heartbeat->boot_id, links);
	if (write(heartbeat->fd, line, length) < 0 && errno != EAGAIN) {
		close(heartbeat->fd);
		heartbeat->fd = -1;
	}
}
