// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define SETTINGS "/sys/firmware/qemu_fw_cfg/by_name/opt/vpctl/"

/* Every setting is optional: a VM started by hand has none and boots all the same. */
ssize_t read_setting(const char *name, char *buffer, size_t size)
{
	char path[256];

	snprintf(path, sizeof(path), SETTINGS "%s/raw", name);
	return read_file(path, buffer, size);
}

static void copy_setting(const char *name, const char *path, mode_t mode)
{
	char data[16384];
	ssize_t length = read_setting(name, data, sizeof(data));

	if (length > 0 && write_file(path, data, (size_t)length, mode) < 0)
		say("vpctl: cannot write %s", path);
}

static void apply_hostname(void)
{
	char name[65];

	if (read_setting("hostname", name, sizeof(name)) <= 0)
		strcpy(name, "micro");
	name[strcspn(name, "\n")] = '\0';
	sethostname(name, strlen(name));
}

void apply_settings(void)
{
	apply_hostname();
	copy_setting("links", "/run/vpctl/links", 0644);
	copy_setting("host_key", "/run/vpctl/host_key", 0600);
	copy_setting("hosts", "/etc/hosts", 0644);
	mkdir("/root/.ssh", 0700);
	copy_setting("authorized_keys", "/root/.ssh/authorized_keys", 0600);
}
