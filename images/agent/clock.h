/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VPCTL_CLOCK_H
#define VPCTL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static inline void sleep_us(int64_t us)
{
	struct timespec span = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&span, NULL);
}

/* Milliseconds until a time, for poll(): at least 0, rounded up. */
static inline int ms_until(int64_t us)
{
	int64_t left = us - now_us();

	return left > 0 ? (int)((left + 999) / 1000) : 0;
}

#endif
