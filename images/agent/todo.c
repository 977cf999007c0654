#include "agent.h"
int probe_main(int argc, char **argv) { (void)argc; (void)argv; return 2; }
int send_main(int argc, char **argv) { (void)argc; (void)argv; return 2; }
int recv_main(int argc, char **argv) { (void)argc; (void)argv; return 2; }
int stream_send_main(int argc, char **argv) { (void)argc; (void)argv; return 2; }
int stream_recv_main(int argc, char **argv) { (void)argc; (void)argv; return 2; }
