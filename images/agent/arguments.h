/* SPDX-License-Identifier: Apache-2.0 */
/* The arguments that the traffic commands share: operands first, then --name VALUE with a number or text. */
#ifndef VPCTL_ARGUMENTS_H
#define VPCTL_ARGUMENTS_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

struct arguments {
	/* Pointers to where the operands go, NULL at the end. */
	const char **operands[4];
	/* How many of them there have to be; 0: all. */
	size_t required;
	struct {
		const char *name;
		int64_t *value;
	} numbers[6];
	/* Where --plan goes, if the command takes one; it is then required. */
	struct plan *plan;
};

/* Returns 0, or -1 having said on stderr what is wrong. */
int arguments_parse(int argc, char **argv, const struct arguments *arguments);

#endif
