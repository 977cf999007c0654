/* SPDX-License-Identifier: Apache-2.0 */
/* What a check sends: PROTOCOL:SIZExCOUNT, separated by commas. Pure. */
#ifndef VPCTL_PLAN_H
#define VPCTL_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define PLAN_TESTS_MAX 32
#define PLAN_COUNT_MAX 256

#define FRAME_MIN 60
#define FRAME_MAX (65535 + 14)
#define UDP_MAX 65507
#define TCP_MAX (1u << 20)

enum protocol { PROTOCOL_FRAME, PROTOCOL_UDP, PROTOCOL_TCP };

struct test {
	enum protocol protocol;
	/* frame: a whole Ethernet frame without FCS; udp: the payload; tcp: one write() */
	uint32_t size;
	uint32_t count;
};

struct plan {
	struct test test[PLAN_TESTS_MAX];
	size_t count;
};

/* Returns NULL, or what is wrong. */
const char *plan_parse(const char *text, struct plan *plan);
const char *protocol_name(enum protocol protocol);

#endif
