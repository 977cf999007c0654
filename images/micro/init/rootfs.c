// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define ROOT_SERIAL "vpctl-root"

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags,
		       const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, options) < 0)
		die("vpctl: cannot mount %s on %s: %s", type ? type : source, target, strerror(errno));
}

void mount_kernel_filesystems(void)
{
	must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* Finds the root by its serial number: the user's own disks may come before it. */
static bool find_root(char *device, size_t size)
{
	DIR *blocks = opendir("/sys/block");
	struct dirent *entry;
	bool found = false;

	if (!blocks)
		return false;
	while (!found && (entry = readdir(blocks))) {
		char path[300], serial[32];

		snprintf(path, sizeof(path), "/sys/block/%s/serial", entry->d_name);
		if (read_file(path, serial, sizeof(serial)) < 0)
			continue;
		found = strncmp(serial, ROOT_SERIAL, strlen(ROOT_SERIAL)) == 0;
		if (found)
			snprintf(device, size, "/dev/%s", entry->d_name);
	}
	closedir(blocks);
	return found;
}

static void mount_overlay(void)
{
	char device[300];

	if (!find_root(device, sizeof(device)))
		die("vpctl: no virtio disk with the serial number " ROOT_SERIAL);
	must_mount(device, "/lower", "squashfs", MS_RDONLY | MS_NODEV, NULL);
	must_mount("tmpfs", "/rw", "tmpfs", 0, "mode=0755");
	mkdir("/rw/upper", 0755);
	mkdir("/rw/work", 0755);
	must_mount("overlay", "/root", "overlay", 0, "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work");
}

/* Frees the memory of the modules: they are loaded, and the root has its own copies. */
static void empty_initramfs(void)
{
	DIR *modules = opendir("/modules");
	struct dirent *entry;

	if (!modules)
		return;
	while ((entry = readdir(modules)))
		unlinkat(dirfd(modules), entry->d_name, 0);
	closedir(modules);
	unlink("/init");
}

void enter_root(void)
{
	mount_overlay();
	empty_initramfs();
	if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) < 0 ||
	    mount("/proc", "/root/proc", NULL, MS_MOVE, NULL) < 0 ||
	    mount("/sys", "/root/sys", NULL, MS_MOVE, NULL) < 0)
		die("vpctl: cannot move the mounts to the root: %s", strerror(errno));
	if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		die("vpctl: cannot enter the root: %s", strerror(errno));
	must_mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	must_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
	mkdir("/run/vpctl", 0755);
}
