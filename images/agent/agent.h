/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of vpctl-agent; each takes its own argv and returns the exit status. */
#ifndef VPCTL_AGENT_H
#define VPCTL_AGENT_H

#define AGENT_VERSION "1"

#define EXIT_USAGE 2

int daemon_main(int argc, char **argv);
int probe_main(int argc, char **argv);
int send_main(int argc, char **argv);
int recv_main(int argc, char **argv);
int stream_send_main(int argc, char **argv);
int stream_recv_main(int argc, char **argv);

#endif
