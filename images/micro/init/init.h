/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of the micro image: from the kernel's first process to ssh, in one static program. */
#ifndef VPCTL_INIT_H
#define VPCTL_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* log.c: short words on the serial console, which is slow */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Reports a boot that cannot go on and ends in a kernel panic, which the host sees. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* modules.c: both are silent about what is not there; the caller decides what it needs */
int load_module(const char *path);
void load_modules(const char *list);

/* rootfs.c */
void mount_kernel_filesystems(void);
void enter_root(void);

/* firmware.c: the per-VM settings that the host passes by fw_cfg */
ssize_t read_setting(const char *name, char *buffer, size_t size);
void apply_settings(void);

/* network.c */
void configure_management(void);

/* services.c */
void start_services(void);
void run_forever(void) __attribute__((noreturn));

/* shutdown.c */
void shut_down(int command) __attribute__((noreturn));

/* file.c */
ssize_t read_file(const char *path, char *buffer, size_t size);
int write_file(const char *path, const char *data, size_t length, mode_t mode);

#endif
