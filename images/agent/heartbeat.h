/* SPDX-License-Identifier: Apache-2.0 */
/* One line a second to the host, by a virtio port that may have no reader. */
#ifndef VPCTL_HEARTBEAT_H
#define VPCTL_HEARTBEAT_H

#include <stdint.h>

#include "links.h"

/* The longest line. The host's ring holds 4096 bytes, and one that does not fit would never be read. */
#define HEARTBEAT_LINE 3072

struct heartbeat {
	/* NULL: the port of our name, wherever it is. */
	const char *path;
	int fd;
	uint64_t sequence;
	char boot_id[37];
};

/* Pure: writes the line, newline included, and returns its length. Each link that is set up is NAME:STATE, its state
 * `moved` (to another network namespace), `down`, `no-carrier`, `readdressed`, or the beats for which nothing has come. What a
 * user has changed follows, each as ;KEY=VALUE: its name, its MAC, its master. */
size_t heartbeat_format(char *line, size_t size, uint64_t sequence, uint64_t uptime_ms, const char *boot_id,
			const struct links *links);

void heartbeat_init(struct heartbeat *heartbeat, const char *path);
/* Never blocks: a beat that the port does not take now is lost. */
void heartbeat_beat(struct heartbeat *heartbeat, const struct links *links);

#endif
