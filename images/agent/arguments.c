// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int complain(const char *command, const char *what, const char *problem)
{
	fprintf(stderr, "vpctl-agent %s: %s: %s\n", command, what, problem);
	return -1;
}

static int parse_number(const char *text, int64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoll(text, &end, 10);
	return errno || end == text || *end || *value < 0 ? -1 : 0;
}

static int parse_option(char **argv, const char *name, const char *value, const struct arguments *arguments)
{
	const size_t limit = sizeof(arguments->numbers) / sizeof(*arguments->numbers);
	const char *problem;

	if (!value)
		return complain(argv[0], name, "a value is missing");
	if (arguments->plan && strcmp(name, "--plan") == 0) {
		problem = plan_parse(value, arguments->plan);
		return problem ? complain(argv[0], value, problem) : 0;
	}
	for (size_t i = 0; i < limit && arguments->numbers[i].name; i++)
		if (strcmp(name, arguments->numbers[i].name) == 0)
			return parse_number(value, arguments->numbers[i].value) < 0 ?
				       complain(argv[0], value, "not a number") : 0;
	return complain(argv[0], name, "no such option");
}

int arguments_parse(int argc, char **argv, const struct arguments *arguments)
{
	size_t operands = 0;

	if (arguments->plan)
		arguments->plan->count = 0;
	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) == 0) {
			const char *name = argv[i++];

			if (parse_option(argv, name, i < argc ? argv[i] : NULL, arguments) < 0)
				return -1;
		} else if (arguments->operands[operands]) {
			*arguments->operands[operands++] = argv[i];
		} else {
			return complain(argv[0], argv[i], "one word too many");
		}
	}
	if (arguments->operands[operands] && (!arguments->required || operands < arguments->required))
		return complain(argv[0], "usage", "an operand is missing");
	/* The first operand is always the link. It goes into paths and into JSON as it is. */
	if (strlen(*arguments->operands[0]) >= IFNAMSIZ || strpbrk(*arguments->operands[0], "/\"\\"))
		return complain(argv[0], *arguments->operands[0], "not the name of an interface");
	if (arguments->plan && !arguments->plan->count)
		return complain(argv[0], "--plan", "is missing");
	return 0;
}
