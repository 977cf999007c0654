// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

int load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	long result;

	if (fd < 0)
		return -1;
	result = syscall(SYS_finit_module, fd, "", 0);
	close(fd);
	if (result < 0 && errno != EEXIST) {
		say("vpctl: %s: %s", path, strerror(errno));
		return -1;
	}
	return 0;
}

/* The list names one file a line, each after those that it needs: written by depmod at build time, so that no
 * dependency has to be worked out, and no modprobe started, during the boot.
 */
void load_modules(const char *list)
{
	char names[4096];
	char *name, *rest = names;

	if (read_file(list, names, sizeof(names)) < 0)
		die("vpctl: %s: %s", list, strerror(errno));
	while ((name = strsep(&rest, "\n"))) {
		char path[256];

		if (!*name)
			continue;
		snprintf(path, sizeof(path), "/modules/%s", name);
		load_module(path);
	}
}
