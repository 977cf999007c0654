// SPDX-License-Identifier: Apache-2.0
/* The guest's side of vpctl: names and addresses for the links, a heartbeat, and patterned traffic. */
#include <stdio.h>
#include <string.h>

#include "agent.h"

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *usage;
} commands[] = {
	{"daemon", daemon_main, "[--links FILE] [--port PATH]"},
	{"probe", probe_main, "LINK PEER_IP [PEER_MAC] [--count N] [--interval-ms N] [--timeout-ms N]"},
	{"send", send_main, "LINK PEER_IP PEER_MAC --plan PLAN [--seed N]"},
	{"recv", recv_main, "LINK --plan PLAN [--seed N] [--timeout-ms N]"},
	{"stream-send", stream_send_main, "LINK PEER_IP [--rate N] [--duration-ms N] [--first N]"},
	{"stream-recv", stream_recv_main, "LINK [--duration-ms N]"},
};

static int usage(void)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		fprintf(stderr, "%s vpctl-agent %s %s\n", i ? "      " : "usage:", commands[i].name, commands[i].usage);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return usage();
	if (strcmp(argv[1], "--version") == 0) {
		puts("vpctl-agent " AGENT_VERSION);
		return 0;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].main(argc - 1, argv + 1);
	return usage();
}
