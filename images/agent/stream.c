// SPDX-License-Identifier: Apache-2.0
/* A numbered stream of small datagrams: what is missing at the other end, and for how long, is the outage of a link. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agent.h"
#include "arguments.h"
#include "clock.h"
#include "interface.h"
#include "pattern.h"

#define STREAM_PORT 47000
#define STREAM_SEED 0x73747265u
#define DATAGRAM 64

/* How often the sender looks whether its interface is still the same: a socket stays with one that is gone. */
#define LOOK_EVERY_US 20000

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static int64_t end_of(int64_t duration_ms)
{
	return duration_ms ? now_us() + duration_ms * 1000 : INT64_MAX;
}

struct source {
	const char *link, *peer_text;
	struct sockaddr_in peer;
	int64_t rate, duration_ms;
	int64_t first; /* number: one that goes on with the stream of a guest that died begins where that would be now */
	int socket;
	unsigned int index; /* of the interface that the socket is bound to */
	int64_t looked_us;
	uint64_t sent, failed;
	uint32_t next;
};

/* Opens the socket anew where the interface has come back as another one. */
static void follow_interface(struct source *source)
{
	unsigned int index = if_nametoindex(source->link);

	source->looked_us = now_us();
	if (index == source->index && source->socket >= 0)
		return;
	if (source->socket >= 0)
		close(source->socket);
	source->socket = index ? interface_socket(source->link, SOCK_DGRAM, 0) : -1;
	source->index = index;
}

/* Numbers go on while there is no interface: what could not be sent is missing at the other end, as it should be. */
static void send_next(struct source *source)
{
	const struct message message = {.seed = STREAM_SEED, .number = source->next++};
	uint8_t data[DATAGRAM];

	if (source->socket < 0 || now_us() - source->looked_us > LOOK_EVERY_US)
		follow_interface(source);
	pattern_fill(data, sizeof(data), &message);
	if (source->socket >= 0 && sendto(source->socket, data, sizeof(data), MSG_DONTWAIT,
					  (struct sockaddr *)&source->peer, sizeof(source->peer)) == sizeof(data)) {
		source->sent++;
	} else {
		source->failed++;
		source->looked_us = 0;
	}
}

static int open_ticks(int64_t rate)
{
	const struct timespec period = {.tv_sec = rate == 1 ? 1 : 0, .tv_nsec = rate == 1 ? 0 : 1000000000 / rate};
	const struct itimerspec every = {.it_interval = period, .it_value = period};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

	if (fd >= 0 && timerfd_settime(fd, 0, &every, NULL) < 0)
		return -1;
	return fd;
}

static void send_stream(struct source *source)
{
	struct pollfd polled[] = {
		{.fd = open_ticks(source->rate), .events = POLLIN},
		{.fd = open_signals(), .events = POLLIN},
	};
	int64_t end_us = end_of(source->duration_ms);

	while (now_us() < end_us) {
		uint64_t ticks;

		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			return;
		if (polled[1].revents)
			return;
		/* A guest that was stopped catches up: each tick has its number. */
		if (polled[0].revents && read(polled[0].fd, &ticks, sizeof(ticks)) == sizeof(ticks))
			while (ticks--)
				send_next(source);
	}
}

int stream_send_main(int argc, char **argv)
{
	static struct source source = {.rate = 1000, .socket = -1};
	const struct arguments arguments = {
		.operands = {&source.link, &source.peer_text},
		.numbers = {
			{"--rate", &source.rate},
			{"--duration-ms", &source.duration_ms},
			{"--first", &source.first},
		},
	};

	source.peer = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(STREAM_PORT)};
	if (arguments_parse(argc, argv, &arguments) < 0 ||
	    inet_pton(AF_INET, source.peer_text, &source.peer.sin_addr) != 1 || source.rate < 1 || source.rate > 100000 ||
	    source.first < 0 || source.first > UINT32_MAX)
		return EXIT_USAGE;
	source.next = (uint32_t)source.first;
	send_stream(&source);
	printf("{\"sent\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"last_seq\":%" PRId64 "}\n", source.sent, source.failed,
	       (int64_t)source.next - 1);
	return 0;
}

struct sink {
	const char *link;
	int64_t duration_ms;
	int socket;
	unsigned int index; /* of the link's interface, as last seen */
	uint64_t received, corrupt, late;
	int64_t first, highest; /* numbers; -1: none yet */
	int64_t last_us, longest_gap_us, gap_after, gap_lost;
};

static int open_sink(void)
{
	const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(STREAM_PORT)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int size = 4 << 20, yes = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	/* Not bound to the device, which may go and come back as another; the packet says where it came in. */
	if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &yes, sizeof(yes)) < 0 ||
	    bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static unsigned int arrival_interface(struct msghdr *message)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
		struct in_pktinfo info;

		if (part->cmsg_level != IPPROTO_IP || part->cmsg_type != IP_PKTINFO)
			continue;
		memcpy(&info, CMSG_DATA(part), sizeof(info));
		return (unsigned int)info.ipi_ifindex;
	}
	return 0;
}

static bool came_by_link(struct sink *sink, unsigned int index)
{
	if (index != sink->index)
		sink->index = if_nametoindex(sink->link);
	return index == sink->index;
}

static void count(struct sink *sink, int64_t number)
{
	int64_t arrived_us = now_us();

	sink->received++;
	if (sink->highest >= 0 && number <= sink->highest) {
		sink->late++; /* out of order, or twice */
		return;
	}
	if (sink->highest < 0) {
		sink->first = number;
	} else if (arrived_us - sink->last_us > sink->longest_gap_us) {
		sink->longest_gap_us = arrived_us - sink->last_us;
		sink->gap_after = sink->highest;
		sink->gap_lost = number - sink->highest - 1;
	}
	sink->highest = number;
	sink->last_us = arrived_us;
}

static void receive_next(struct sink *sink)
{
	struct message found = {.seed = STREAM_SEED};
	uint8_t data[DATAGRAM + 1];
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))];
	struct iovec part = {.iov_base = data, .iov_len = sizeof(data)};
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t length = recvmsg(sink->socket, &message, MSG_DONTWAIT);

	if (length < 0 || !came_by_link(sink, arrival_interface(&message)))
		return;
	switch (pattern_check(data, (size_t)length, DATAGRAM, &found)) {
	case VERDICT_OK:
		count(sink, found.number);
		break;
	case VERDICT_CORRUPT:
		sink->corrupt++;
		break;
	case VERDICT_FOREIGN:
		break;
	}
}

static void receive_stream(struct sink *sink)
{
	struct pollfd polled[] = {
		{.fd = sink->socket, .events = POLLIN},
		{.fd = open_signals(), .events = POLLIN},
	};
	int64_t end_us = end_of(sink->duration_ms);

	while (now_us() < end_us) {
		if (poll(polled, 2, end_us == INT64_MAX ? -1 : ms_until(end_us)) < 0 && errno != EINTR)
			return;
		if (polled[0].revents)
			receive_next(sink);
		else if (polled[1].revents)
			return; /* only once nothing is left in the queue */
	}
}

int stream_recv_main(int argc, char **argv)
{
	static struct sink sink = {.first = -1, .highest = -1, .gap_after = -1};
	const struct arguments arguments = {
		.operands = {&sink.link},
		.numbers = {{"--duration-ms", &sink.duration_ms}},
	};
	int64_t expected;

	if (arguments_parse(argc, argv, &arguments) < 0)
		return EXIT_USAGE;
	sink.socket = open_sink();
	if (sink.socket < 0) {
		perror("vpctl-agent stream-recv");
		return 1;
	}
	receive_stream(&sink);
	expected = sink.highest < 0 ? 0 : sink.highest - sink.first + 1;
	if (expected < (int64_t)sink.received)
		expected = (int64_t)sink.received; /* some came twice */
	printf("{\"received\":%" PRIu64 ",\"lost\":%" PRId64 ",\"corrupt\":%" PRIu64 ",\"late\":%" PRIu64
	       ",\"first_seq\":%" PRId64 ",\"last_seq\":%" PRId64
	       ",\"longest_gap_ms\":%.1f,\"gap_after_seq\":%" PRId64 ",\"gap_lost\":%" PRId64 "}\n",
	       sink.received, expected - (int64_t)sink.received, sink.corrupt, sink.late, sink.first, sink.highest,
	       (double)sink.longest_gap_us / 1000, sink.gap_after, sink.gap_lost);
	return 0;
}
