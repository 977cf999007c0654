// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define CONSOLE "/dev/ttyS0"
#define RESPAWN_MS 1000

static void exec_ssh(void);
static void exec_agent(void);
static void exec_console(void);

struct service {
	void (*exec)(void);
	pid_t pid;
	long long started_ms;
};

static struct service ssh = {.exec = exec_ssh};
static struct service agent = {.exec = exec_agent};
static struct service console = {.exec = exec_console};
static struct service *const services[] = {&ssh, &agent, &console};

static sigset_t original_signals;
static int signals_fd;

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void exec_ssh(void)
{
	/* Without a key from the host (a VM started by hand) dropbear makes its own. */
	if (access("/run/vpctl/host_key", R_OK) == 0)
		execl("/usr/sbin/dropbear", "dropbear", "-F", "-E", "-s", "-P", "", "-r", "/run/vpctl/host_key", NULL);
	else
		execl("/usr/sbin/dropbear", "dropbear", "-F", "-E", "-s", "-P", "", "-R", NULL);
}

static void exec_agent(void)
{
	execl("/usr/bin/vpctl-agent", "vpctl-agent", "daemon", NULL);
}

static void exec_console(void)
{
	static const char greeting[] = "\r\npress Enter for a root shell\r\n";
	int fd;
	char byte;

	setsid();
	fd = open(CONSOLE, O_RDWR);
	if (fd < 0)
		return;
	ioctl(fd, TIOCSCTTY, 1);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
	/* The shell starts at the first key: its start would delay ssh, and most guests never see a console. */
	if (write(1, greeting, sizeof(greeting) - 1) < 0 || read(0, &byte, 1) <= 0)
		return;
	if (chdir("/root") < 0)
		return;
	execl("/bin/bash", "-bash", NULL);
}

static void start(struct service *service)
{
	pid_t pid = fork();

	service->started_ms = now_ms();
	if (pid == 0) {
		sigprocmask(SIG_SETMASK, &original_signals, NULL);
		if (service != &console)
			setsid();
		service->exec();
		_exit(127);
	}
	service->pid = pid;
}

static int open_signals(void)
{
	static const int numbers[] = {SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, &original_signals);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

void start_services(void)
{
	signals_fd = open_signals();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("SHELL", "/bin/bash", 1);
	setenv("TERM", "vt220", 1);
	start(&ssh);
	start(&agent);
}

/* An entry of the table on port 22 (0x16). IPv6 has a table and, in dropbear, a socket of its own, opened first; the
 * host comes by IPv4.
 */
static bool ssh_listens(void)
{
	char table[4096];

	return read_file("/proc/net/tcp", table, sizeof(table)) > 0 && strstr(table, ":0016 ");
}

static void reap(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (size_t i = 0; i < sizeof(services) / sizeof(*services); i++)
			if (services[i]->pid == pid)
				services[i]->pid = 0;
}

/* Starts again what has ended, but no service more often than once a second. Returns how long to wait for the next. */
static int respawn(void)
{
	int wait_ms = -1;

	for (size_t i = 0; i < sizeof(services) / sizeof(*services); i++) {
		long long due = services[i]->started_ms + RESPAWN_MS - now_ms();

		if (services[i]->pid)
			continue;
		if (!services[i]->started_ms || due <= 0)
			start(services[i]);
		else if (wait_ms < 0 || due < wait_ms)
			wait_ms = (int)due;
	}
	return wait_ms;
}

/* The signals are those that busybox's poweroff, halt and reboot send to PID 1. */
static void handle_signal(int number)
{
	switch (number) {
	case SIGCHLD:
		reap();
		break;
	case SIGUSR1:
	case SIGUSR2:
		shut_down(RB_POWER_OFF);
	case SIGTERM:
	case SIGINT:
		shut_down(RB_AUTOBOOT);
	}
}

void run_forever(void)
{
	struct pollfd signals = {.fd = signals_fd, .events = POLLIN};
	bool announced = false;

	reboot(RB_DISABLE_CAD);
	for (;;) {
		/* The console waits for ssh: it would only take time from it. */
		int wait_ms = announced ? respawn() : 5;
		struct signalfd_siginfo info;

		if (poll(&signals, 1, wait_ms) < 0 && errno != EINTR)
			die("vpctl: poll: %s", strerror(errno));
		while (read(signals.fd, &info, sizeof(info)) == sizeof(info))
			handle_signal((int)info.ssi_signo);
		if (!announced && (announced = ssh_listens()))
			say("vpctl: ssh");
	}
}
