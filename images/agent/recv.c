// SPDX-License-Identifier: Apache-2.0
/* One direction of a link, the receiving end: every message is compared byte by byte and counted once. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "arguments.h"
#include "check.h"
#include "clock.h"
#include "interface.h"
#include "packets.h"
#include "pattern.h"
#include "reader.h"

/* How long after the sender's end, or the last message that was awaited, something may still come. */
#define QUIET_AFTER_END_US 300000
#define QUIET_AFTER_ALL_US 30000
#define SOCKET_BUFFER (8 << 20)
/* For a receiver before this one, whose reader is gone, to notice that and give its ports back. */
#define PORT_TAKEN_US 2000000
#define PORT_AGAIN_US 20000

struct receipt {
	uint32_t received, corrupt, duplicate;
	bool seen[PLAN_COUNT_MAX];
	/* tcp: the message that is coming in, how much of it is here, and its number */
	uint8_t *stream;
	size_t filled;
	uint32_t next;
};

struct receiver {
	const char *link;
	char name[IFNAMSIZ]; /* of its interface */
	struct plan plan;
	int64_t seed, timeout_ms;
	struct receipt receipt[PLAN_TESTS_MAX];
	/* One per test and protocol: [test] listens; [PLAN_TESTS_MAX + test] is tcp's connection; then the two below. */
	struct pollfd polled[2 * PLAN_TESTS_MAX + 2];
	bool ended;
	int64_t last_us;
};

#define FRAMES (2 * PLAN_TESTS_MAX)
/* Standard output: its reader may be gone, and another receiver may want the ports. */
#define READER (2 * PLAN_TESTS_MAX + 1)

static uint8_t packet[FRAME_MAX + 1];

static void count(struct receiver *receiver, size_t test, enum verdict verdict, uint32_t number)
{
	struct receipt *receipt = &receiver->receipt[test];

	if (verdict == VERDICT_FOREIGN)
		return;
	receiver->last_us = now_us();
	if (verdict == VERDICT_CORRUPT || number >= receiver->plan.test[test].count) {
		receipt->corrupt++;
	} else if (receipt->seen[number]) {
		receipt->duplicate++;
	} else {
		receipt->seen[number] = true;
		receipt->received++;
	}
}

static void receive_datagram(struct receiver *receiver, size_t test)
{
	struct message found = {.seed = (uint32_t)receiver->seed, .test = (uint32_t)test};
	ssize_t length = recv(receiver->polled[test].fd, packet, sizeof(packet), MSG_DONTWAIT);
	enum verdict verdict;

	if (length < 0)
		return;
	verdict = pattern_check(packet, (size_t)length, receiver->plan.test[test].size, &found);
	count(receiver, test, verdict, found.number);
}

/* Says which test a frame belongs to: by its header, or, if that was damaged, by its size. */
static int test_of_frame(const struct receiver *receiver, size_t length, const struct message *said)
{
	for (size_t i = 0; i < receiver->plan.count; i++) {
		const struct test *test = &receiver->plan.test[i];

		if (test->protocol == PROTOCOL_FRAME && (said ? said->test == i : test->size == length))
			return (int)i;
	}
	return -1;
}

static void receive_frame(struct receiver *receiver)
{
	ssize_t length = recv(receiver->polled[FRAMES].fd, packet, sizeof(packet), MSG_DONTWAIT);
	const uint8_t *payload = packet + ETHERNET_HEADER;
	struct message said;
	bool has_header;
	int test;

	if (length < ETHERNET_HEADER)
		return;
	has_header = pattern_peek(payload, (size_t)length - ETHERNET_HEADER, &said);
	if (has_header && said.seed != (uint32_t)receiver->seed)
		return;
	if (has_header && said.test == CHECK_END_TEST) {
		receiver->ended = true;
		receiver->last_us = now_us();
		return;
	}
	test = test_of_frame(receiver, (size_t)length, has_header ? &said : NULL);
	if (test >= 0) {
		struct message found = {.seed = (uint32_t)receiver->seed, .test = (uint32_t)test};
		enum verdict verdict = pattern_check(payload, (size_t)length - ETHERNET_HEADER,
						     receiver->plan.test[test].size - ETHERNET_HEADER, &found);

		count(receiver, (size_t)test, verdict, found.number);
	}
}

static void accept_stream(struct receiver *receiver, size_t test)
{
	int fd = accept4(receiver->polled[test].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct pollfd *connection = &receiver->polled[PLAN_TESTS_MAX + test];

	if (fd < 0)
		return;
	if (connection->fd >= 0)
		close(connection->fd);
	receiver->receipt[test].filled = 0;
	*connection = (struct pollfd){.fd = fd, .events = POLLIN};
}

static void finish_stream(struct receiver *receiver, size_t test)
{
	struct receipt *receipt = &receiver->receipt[test];

	/* A part of a message at the end of the stream is a message that did not arrive whole. */
	if (receipt->filled)
		receipt->corrupt++;
	receipt->filled = 0;
	close(receiver->polled[PLAN_TESTS_MAX + test].fd);
	receiver->polled[PLAN_TESTS_MAX + test].fd = -1;
}

static void receive_stream(struct receiver *receiver, size_t test)
{
	struct message found = {.seed = (uint32_t)receiver->seed, .test = (uint32_t)test};
	struct receipt *receipt = &receiver->receipt[test];
	size_t size = receiver->plan.test[test].size;
	ssize_t length = recv(receiver->polled[PLAN_TESTS_MAX + test].fd, receipt->stream + receipt->filled,
			      size - receipt->filled, MSG_DONTWAIT);

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0) {
		finish_stream(receiver, test);
		return;
	}
	receiver->last_us = now_us();
	receipt->filled += (size_t)length;
	if (receipt->filled == size) {
		enum verdict verdict = pattern_check(receipt->stream, size, size, &found);

		/* A byte stream keeps its order, so a message's number is known without its word for it. */
		count(receiver, test, verdict == VERDICT_OK && size >= PATTERN_WITH_HEADER && found.number != receipt->next ?
					      VERDICT_CORRUPT : verdict, found.number);
		receipt->next++;
		receipt->filled = 0;
	}
}

static int bind_in_turn(int fd, const struct sockaddr_in *address)
{
	int64_t until_us = now_us() + PORT_TAKEN_US;

	while (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if (errno != EADDRINUSE || now_us() >= until_us)
			return -1;
		sleep_us(PORT_AGAIN_US);
	}
	return 0;
}

static int open_port(const struct receiver *receiver, size_t test)
{
	const struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)(CHECK_PORT + test)),
	};
	bool is_stream = receiver->plan.test[test].protocol == PROTOCOL_TCP;
	int fd = interface_socket(receiver->name, is_stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	int yes = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind_in_turn(fd, &address) < 0 || (is_stream && listen(fd, 4) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int open_frames(const char *name)
{
	int index = (int)if_nametoindex(name), size = SOCKET_BUFFER;
	int fd;

	fd = packets_open(index, CHECK_ETHERTYPE, interface_is_port(name));
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	return fd;
}

static int open_all(struct receiver *receiver)
{
	if (!interface_find(receiver->link, receiver->name)) {
		errno = ENODEV;
		return -1;
	}
	for (size_t i = 0; i <= FRAMES; i++)
		receiver->polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	receiver->polled[READER] = READER_POLLED;
	receiver->polled[FRAMES].fd = open_frames(receiver->name);
	if (receiver->polled[FRAMES].fd < 0)
		return -1;
	for (size_t i = 0; i < receiver->plan.count; i++) {
		const struct test *test = &receiver->plan.test[i];

		if (test->protocol == PROTOCOL_FRAME)
			continue;
		receiver->polled[i].fd = open_port(receiver, i);
		if (receiver->polled[i].fd < 0)
			return -1;
		if (test->protocol == PROTOCOL_TCP && !(receiver->receipt[i].stream = malloc(test->size)))
			return -1;
	}
	return 0;
}

static void receive(struct receiver *receiver)
{
	if (receiver->polled[FRAMES].revents)
		receive_frame(receiver);
	for (size_t i = 0; i < receiver->plan.count; i++) {
		if (receiver->polled[i].revents && receiver->plan.test[i].protocol == PROTOCOL_TCP)
			accept_stream(receiver, i);
		else if (receiver->polled[i].revents)
			receive_datagram(receiver, i);
		if (receiver->polled[PLAN_TESTS_MAX + i].fd >= 0 && receiver->polled[PLAN_TESTS_MAX + i].revents)
			receive_stream(receiver, i);
	}
}

static bool has_everything(const struct receiver *receiver)
{
	for (size_t i = 0; i < receiver->plan.count; i++)
		if (receiver->receipt[i].received < receiver->plan.test[i].count)
			return false;
	return true;
}

/* Goes on a little after the last message that was awaited: a duplicate would come then. -1: the reader is gone. */
static int receive_all(struct receiver *receiver)
{
	int64_t deadline_us = now_us() + receiver->timeout_ms * 1000;

	for (;;) {
		int64_t until_us = deadline_us;

		if (has_everything(receiver))
			until_us = receiver->last_us + QUIET_AFTER_ALL_US;
		else if (receiver->ended)
			until_us = receiver->last_us + QUIET_AFTER_END_US;
		if (until_us > deadline_us)
			until_us = deadline_us;
		if (now_us() >= until_us)
			return 0;
		if (poll(receiver->polled, READER + 1, ms_until(until_us)) > 0)
			receive(receiver);
		if (receiver->polled[READER].revents)
			return -1;
	}
}

static int report(const struct receiver *receiver, const struct counters *counters)
{
	bool ok = true;

	printf("{\"tests\":[");
	for (size_t i = 0; i < receiver->plan.count; i++) {
		const struct test *test = &receiver->plan.test[i];
		const struct receipt *receipt = &receiver->receipt[i];

		printf("%s{\"protocol\":\"%s\",\"size\":%u,\"received\":%u,\"corrupt\":%u,\"duplicate\":%u}",
		       i ? "," : "", protocol_name(test->protocol), test->size, receipt->received, receipt->corrupt,
		       receipt->duplicate);
		ok = ok && receipt->received == test->count && !receipt->corrupt && !receipt->duplicate;
	}
	printf("],");
	counters_print(counters, RECEIVED);
	puts("}");
	return ok ? 0 : 1;
}

int recv_main(int argc, char **argv)
{
	static struct receiver receiver = {.timeout_ms = 10000};
	const struct arguments arguments = {
		.operands = {&receiver.link},
		.numbers = {{"--seed", &receiver.seed}, {"--timeout-ms", &receiver.timeout_ms}},
		.plan = &receiver.plan,
	};
	struct counters before, after, counted;
	char mac[18];

	if (arguments_parse(argc, argv, &arguments) < 0)
		return EXIT_USAGE;
	if (open_all(&receiver) < 0) {
		fprintf(stderr, "vpctl-agent recv: %s: %s\n", receiver.link, strerror(errno));
		return 1;
	}
	before = interface_counters(receiver.name, RECEIVED);
	/* The sender's frames go to what it is now, which may be another one than the link's. */
	interface_mac(receiver.name, mac);
	printf("ready %s\n", mac);
	fflush(stdout);
	if (receive_all(&receiver) < 0)
		return 1;
	after = interface_counters(receiver.name, RECEIVED);
	counted = counters_since(&after, &before);
	return report(&receiver, &counted);
}
