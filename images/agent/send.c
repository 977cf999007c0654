// SPDX-License-Identifier: Apache-2.0
/* One direction of a link, the sending end: every message of the plan, at a pace that an emulated guest can follow. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "agent.h"
#include "arguments.h"
#include "check.h"
#include "clock.h"
#include "interface.h"
#include "links.h"
#include "pattern.h"

#define PACKET_BYTES 1500
#define PACKET_PAUSE_US 200
#define RETRY_US 1000
#define RETRIES 500
#define TCP_TIMEOUT_S 10

struct sender {
	const char *link, *peer_text, *mac_text;
	char name[IFNAMSIZ]; /* of its interface */
	struct plan plan;
	int64_t seed;
	struct in_addr peer;
	uint8_t mac[6];
	uint32_t sent[PLAN_TESTS_MAX];
	const char *error[PLAN_TESTS_MAX];
};

/* Large enough for the largest message of any protocol. */
static uint8_t buffer[TCP_MAX];

static bool passes(int error)
{
	return error == ENOBUFS || error == EAGAIN || error == EINTR;
}

static int send_packet(int fd, size_t size, const struct sockaddr *to, socklen_t to_size)
{
	for (int i = 0; i < RETRIES; i++) {
		if (sendto(fd, buffer, size, 0, to, to_size) == (ssize_t)size)
			return 0;
		if (!passes(errno))
			return -1;
		sleep_us(RETRY_US);
	}
	return -1;
}

static void pace(size_t size)
{
	sleep_us((int64_t)((size + PACKET_BYTES - 1) / PACKET_BYTES) * PACKET_PAUSE_US);
}

static int send_frame(const struct sender *sender, int fd, size_t size, uint32_t test, uint32_t number)
{
	const struct message message = {.seed = (uint32_t)sender->seed, .test = test, .number = number};
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(CHECK_ETHERTYPE),
		.sll_ifindex = (int)if_nametoindex(sender->name),
		.sll_halen = 6,
	};
	struct ether_header *ethernet = (struct ether_header *)buffer;
	char mac_text[18];

	memcpy(to.sll_addr, sender->mac, 6);
	memcpy(ethernet->ether_dhost, sender->mac, 6);
	interface_mac(sender->name, mac_text);
	parse_mac(mac_text, ethernet->ether_shost);
	ethernet->ether_type = htons(CHECK_ETHERTYPE);
	pattern_fill(buffer + ETHERNET_HEADER, size - ETHERNET_HEADER, &message);
	return send_packet(fd, size, (struct sockaddr *)&to, sizeof(to));
}

static void send_frames(struct sender *sender, size_t test)
{
	const struct test *wanted = &sender->plan.test[test];
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	for (uint32_t i = 0; fd >= 0 && i < wanted->count; i++) {
		if (send_frame(sender, fd, wanted->size, (uint32_t)test, i) < 0)
			sender->error[test] = strerror(errno);
		else
			sender->sent[test]++;
		pace(wanted->size);
	}
	if (fd < 0)
		sender->error[test] = strerror(errno);
	else
		close(fd);
}

static struct sockaddr_in peer_port(const struct sender *sender, size_t test)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_addr = sender->peer,
		.sin_port = htons((uint16_t)(CHECK_PORT + test)),
	};
}

static void send_datagrams(struct sender *sender, size_t test)
{
	const struct test *wanted = &sender->plan.test[test];
	const struct sockaddr_in to = peer_port(sender, test);
	int fd = interface_socket(sender->name, SOCK_DGRAM, 0);

	for (uint32_t i = 0; fd >= 0 && i < wanted->count; i++) {
		const struct message message = {.seed = (uint32_t)sender->seed, .test = (uint32_t)test, .number = i};

		pattern_fill(buffer, wanted->size, &message);
		if (send_packet(fd, wanted->size, (const struct sockaddr *)&to, sizeof(to)) < 0)
			sender->error[test] = strerror(errno);
		else
			sender->sent[test]++;
		pace(wanted->size);
	}
	if (fd < 0)
		sender->error[test] = strerror(errno);
	else
		close(fd);
}

static int connect_to_peer(const struct sender *sender, size_t test)
{
	const struct timeval limit = {.tv_sec = TCP_TIMEOUT_S};
	const struct sockaddr_in to = peer_port(sender, test);
	int fd = interface_socket(sender->name, SOCK_STREAM, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void send_stream(struct sender *sender, size_t test)
{
	const struct test *wanted = &sender->plan.test[test];
	int fd = connect_to_peer(sender, test);
	uint8_t end;

	for (uint32_t i = 0; fd >= 0 && i < wanted->count; i++) {
		const struct message message = {.seed = (uint32_t)sender->seed, .test = (uint32_t)test, .number = i};

		pattern_fill(buffer, wanted->size, &message);
		if (write(fd, buffer, wanted->size) != (ssize_t)wanted->size) {
			sender->error[test] = strerror(errno);
			break;
		}
		sender->sent[test]++;
	}
	if (fd < 0) {
		sender->error[test] = strerror(errno);
		return;
	}
	/* The peer closes when it has read everything: until then the bytes are only in our own queue. */
	shutdown(fd, SHUT_WR);
	if (read(fd, &end, 1) < 0)
		sender->error[test] = strerror(errno);
	close(fd);
}

static void send_end(struct sender *sender)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	for (uint32_t i = 0; fd >= 0 && i < CHECK_END_FRAMES; i++) {
		send_frame(sender, fd, FRAME_MIN, CHECK_END_TEST, i);
		sleep_us(RETRY_US);
	}
	if (fd >= 0)
		close(fd);
}

static int report(const struct sender *sender, const struct counters *counters)
{
	bool ok = true;

	printf("{\"tests\":[");
	for (size_t i = 0; i < sender->plan.count; i++) {
		const struct test *test = &sender->plan.test[i];

		printf("%s{\"protocol\":\"%s\",\"size\":%u,\"sent\":%u", i ? "," : "", protocol_name(test->protocol),
		       test->size, sender->sent[i]);
		if (sender->error[i])
			printf(",\"error\":\"%s\"", sender->error[i]);
		printf("}");
		ok = ok && sender->sent[i] == test->count;
	}
	printf("],");
	counters_print(counters, SENT);
	puts("}");
	return ok ? 0 : 1;
}

int send_main(int argc, char **argv)
{
	static void (*const send_test[])(struct sender *, size_t) = {
		[PROTOCOL_FRAME] = send_frames,
		[PROTOCOL_UDP] = send_datagrams,
		[PROTOCOL_TCP] = send_stream,
	};
	static struct sender sender;
	const struct arguments arguments = {
		.operands = {&sender.link, &sender.peer_text, &sender.mac_text},
		.numbers = {{"--seed", &sender.seed}},
		.plan = &sender.plan,
	};
	struct counters before, after, counted;

	if (arguments_parse(argc, argv, &arguments) < 0 || inet_pton(AF_INET, sender.peer_text, &sender.peer) != 1 ||
	    parse_mac(sender.mac_text, sender.mac) < 0)
		return EXIT_USAGE;
	signal(SIGPIPE, SIG_IGN);
	/* One that is missing shows as the error of each test. */
	if (!interface_find(sender.link, sender.name))
		snprintf(sender.name, sizeof(sender.name), "%s", sender.link);
	before = interface_counters(sender.name, SENT);
	for (size_t i = 0; i < sender.plan.count; i++)
		send_test[sender.plan.test[i].protocol](&sender, i);
	send_end(&sender);
	after = interface_counters(sender.name, SENT);
	counted = counters_since(&after, &before);
	return report(&sender, &counted);
}
