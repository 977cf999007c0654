// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define GRACE_MS 1000
#define STEP_MS 10

/* Waits until no process but this one is left, or the grace is over. */
static void reap_all(void)
{
	const struct timespec step = {.tv_nsec = STEP_MS * 1000000L};

	for (int waited = 0; waited < GRACE_MS; waited += STEP_MS) {
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			continue;
		if (pid < 0)
			return;
		nanosleep(&step, NULL);
	}
}

void shut_down(int command)
{
	kill(-1, SIGTERM);
	kill(-1, SIGHUP); /* interactive shells ignore SIGTERM */
	kill(-1, SIGCONT);
	reap_all();
	kill(-1, SIGKILL);
	sync();
	reboot(command);
	die("vpctl: the machine does not stop");
}
