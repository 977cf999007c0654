/* SPDX-License-Identifier: Apache-2.0 */
/* The program that reads our standard output. */
#ifndef VPCTL_READER_H
#define VPCTL_READER_H

#include <poll.h>
#include <stdbool.h>
#include <unistd.h>

/* Polled for no event: poll() reports all the same that the other end was closed. */
#define READER_POLLED ((struct pollfd){.fd = STDOUT_FILENO})

static inline bool reader_is_gone(void)
{
	struct pollfd polled = READER_POLLED;

	return poll(&polled, 1, 0) > 0;
}

#endif
