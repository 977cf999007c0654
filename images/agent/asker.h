/* SPDX-License-Identifier: Apache-2.0 */
/* Whoever reads what we print. */
#ifndef VPCTL_ASKER_H
#define VPCTL_ASKER_H

#include <poll.h>
#include <stdbool.h>
#include <unistd.h>

/* Polled for no event: that the other end of standard output was closed is told all the same. */
#define ASKER_POLLED ((struct pollfd){.fd = STDOUT_FILENO})

static inline bool asker_is_gone(void)
{
	struct pollfd polled = ASKER_POLLED;

	return poll(&polled, 1, 0) > 0;
}

#endif
