// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t min, max;
} protocols[] = {
	[PROTOCOL_FRAME] = {"frame", FRAME_MIN, FRAME_MAX},
	[PROTOCOL_UDP] = {"udp", 1, UDP_MAX},
	[PROTOCOL_TCP] = {"tcp", 1, TCP_MAX},
};

const char *protocol_name(enum protocol protocol)
{
	return protocols[protocol].name;
}

static const char *parse_test(const char *text, struct test *test)
{
	char name[8];
	int end = 0;

	if (sscanf(text, "%7[a-z]:%9ux%9u%n", name, &test->size, &test->count, &end) != 3 || text[end])
		return "a test is PROTOCOL:SIZExCOUNT";
	for (size_t i = 0; i < sizeof(protocols) / sizeof(*protocols); i++) {
		if (strcmp(name, protocols[i].name) != 0)
			continue;
		test->protocol = (enum protocol)i;
		if (test->size < protocols[i].min || test->size > protocols[i].max)
			return "the size is out of range";
		if (test->count < 1 || test->count > PLAN_COUNT_MAX)
			return "the count is out of range (1 to 256)";
		return NULL;
	}
	return "a protocol is frame, udp or tcp";
}

const char *plan_parse(const char *text, struct plan *plan)
{
	plan->count = 0;
	do {
		size_t length = strcspn(text, ",");
		const char *problem;
		char one[40];

		if (plan->count == PLAN_TESTS_MAX)
			return "too many tests (at most 32)";
		if (length >= sizeof(one))
			return "a test is PROTOCOL:SIZExCOUNT";
		memcpy(one, text, length);
		one[length] = '\0';
		problem = parse_test(one, &plan->test[plan->count]);
		if (problem)
			return problem;
		plan->count++;
		text += length;
	} while (*text++ == ',');
	return NULL;
}
