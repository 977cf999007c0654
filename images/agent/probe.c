// SPDX-License-Identifier: Apache-2.0
/* Is the peer there? Numbered echo requests with a pattern, at once and again until the first answer, then a few counted.
 * Each goes out twice, as ICMP, which any kernel answers unless it was told not to, and as a frame of the agents' own,
 * which the peer's daemon answers; the first of the two answers is the request's.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "arguments.h"
#include "clock.h"
#include "echo.h"
#include "interface.h"
#include "links.h"
#include "packets.h"
#include "pattern.h"
#include "reader.h"

#define PAYLOAD 56
#define RETRY_US 20000
#define LAST_ANSWER_US 1000000
#define COUNT_MAX 1000

struct probe {
	const char *link;
	char name[IFNAMSIZ]; /* of its interface */
	const char *peer_text, *mac_text;
	struct in_addr peer, address;
	uint8_t peer_mac[6], mac[6]; /* the peer's by its table, ours as it is now */
	int index;
	int64_t count, interval_us, start_us, deadline_us;
	int socket, frames; /* -1: not that way */
	uint16_t id;
	uint16_t next; /* number of the next request */
	int64_t sent_us[65536]; /* by number; 0: not sent, or answered */
	/* the result */
	int64_t sent, received, corrupt, first_reply_us;
	int64_t rtt_us[COUNT_MAX];
	const char *error;
};

static uint16_t checksum(const void *data, size_t length)
{
	const uint16_t *words = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < length / 2; i++)
		sum += words[i];
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint16_t)~(sum + (sum >> 16));
}

/* Without an address of its own the interface sends no ICMP: the kernel would take another one's. */
static void send_icmp(struct probe *probe)
{
	const struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = probe->peer};
	const struct message message = {.seed = probe->id, .number = probe->next};
	struct {
		struct icmphdr header;
		uint8_t payload[PAYLOAD];
	} packet = {
		.header = {.type = ICMP_ECHO, .un.echo = {.id = htons(probe->id), .sequence = htons(probe->next)}},
	};

	if (!interface_has_address(probe->name, &probe->address))
		return;
	pattern_fill(packet.payload, PAYLOAD, &message);
	packet.header.checksum = checksum(&packet, sizeof(packet));
	sendto(probe->socket, &packet, sizeof(packet), MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to));
}

static void send_frame(struct probe *probe)
{
	struct echo echo;

	if (probe->frames < 0)
		return;
	echo_ask(&echo, probe->mac, probe->peer_mac, probe->id, probe->next);
	packets_send(probe->frames, probe->index, &echo, sizeof(echo));
}

/* An error is a request without an answer: the link may come back, and the next one is due soon. */
static void send_request(struct probe *probe)
{
	probe->sent_us[probe->next] = now_us();
	send_frame(probe);
	send_icmp(probe);
	probe->next++;
}

/* Both take one packet, and return the number of our request that it answers, or -1; an answer with wrong contents is
 * counted.
 */
static int receive_frame(struct probe *probe)
{
	struct echo echo;
	ssize_t length = recv(probe->frames, &echo, sizeof(echo), MSG_DONTWAIT);

	if (length != (ssize_t)sizeof(echo) || echo.kind != ECHO_ANSWER || echo.id != htonl(probe->id) ||
	    !probe->sent_us[ntohs(echo.number)])
		return -1;
	if (echo_is_intact(&echo))
		return ntohs(echo.number);
	probe->corrupt++;
	return -1;
}

static int receive_icmp(struct probe *probe)
{
	struct message found = {.seed = probe->id};
	uint8_t packet[2048];
	ssize_t length = recv(probe->socket, packet, sizeof(packet), MSG_DONTWAIT);
	const struct iphdr *ip = (const struct iphdr *)packet;
	const struct icmphdr *icmp;
	uint16_t number;
	size_t offset;

	if (length < (ssize_t)sizeof(*ip))
		return -1;
	offset = ip->ihl * 4u + sizeof(*icmp);
	icmp = (const struct icmphdr *)(packet + ip->ihl * 4u);
	if ((size_t)length < offset || icmp->type != ICMP_ECHOREPLY || icmp->un.echo.id != htons(probe->id) ||
	    ip->saddr != probe->peer.s_addr)
		return -1;
	number = ntohs(icmp->un.echo.sequence);
	if (!probe->sent_us[number])
		return -1;
	if (pattern_check(packet + offset, (size_t)length - offset, PAYLOAD, &found) != VERDICT_OK ||
	    found.number != number) {
		probe->corrupt++;
		return -1;
	}
	return number;
}

/* Waits for the next answer to a request of number `from` or later. */
static int await_reply(struct probe *probe, uint16_t from, int64_t until_us)
{
	struct pollfd polled[] = {
		{.fd = probe->socket, .events = POLLIN},
		{.fd = probe->frames, .events = POLLIN},
	};

	while (poll(polled, 2, ms_until(until_us)) > 0) {
		int number = polled[0].revents ? receive_icmp(probe) : -1;

		if (number < from && polled[1].revents)
			number = receive_frame(probe);
		if (number >= from)
			return number;
	}
	return -1;
}

static bool first_reply(struct probe *probe)
{
	while (now_us() < probe->deadline_us && !reader_is_gone()) {
		int64_t until_us = now_us() + RETRY_US;

		send_request(probe);
		if (await_reply(probe, 0, until_us < probe->deadline_us ? until_us : probe->deadline_us) >= 0) {
			probe->first_reply_us = now_us() - probe->start_us;
			return true;
		}
	}
	probe->error = "no answer";
	return false;
}

static void count_reply(struct probe *probe, int number)
{
	probe->rtt_us[probe->received++] = now_us() - probe->sent_us[number];
	probe->sent_us[number] = 0;
}

static void count_replies(struct probe *probe)
{
	uint16_t from = probe->next;
	int64_t due_us = now_us();
	int number;

	while (probe->sent < probe->count) {
		send_request(probe);
		probe->sent++;
		due_us += probe->interval_us;
		while ((number = await_reply(probe, from, due_us)) >= 0)
			count_reply(probe, number);
	}
	due_us = now_us() + LAST_ANSWER_US;
	while (probe->received < probe->sent && (number = await_reply(probe, from, due_us)) >= 0)
		count_reply(probe, number);
}

static int compare(const void *left, const void *right)
{
	int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

	return (a > b) - (a < b);
}

/* Of the requests that are counted; without any, whether there was an answer at all. */
static double loss_percent(const struct probe *probe)
{
	if (probe->sent)
		return 100.0 * (double)(probe->sent - probe->received) / (double)probe->sent;
	return probe->first_reply_us ? 0.0 : 100.0;
}

static int report(struct probe *probe)
{
	bool ok = probe->first_reply_us && probe->received == probe->sent && !probe->corrupt;
	char address[INET_ADDRSTRLEN] = "", mac[18];

	if (probe->address.s_addr)
		inet_ntop(AF_INET, &probe->address, address, sizeof(address));
	interface_mac(probe->name, mac);
	qsort(probe->rtt_us, (size_t)probe->received, sizeof(*probe->rtt_us), compare);
	printf("{\"ok\":%s,\"sent\":%lld,\"received\":%lld,\"corrupt\":%lld,\"loss_percent\":%.1f,", ok ? "true" : "false",
	       (long long)probe->sent, (long long)probe->received, (long long)probe->corrupt,
	       loss_percent(probe));
	if (probe->received)
		printf("\"rtt_ms\":%.3f,", (double)probe->rtt_us[probe->received / 2] / 1000);
	else
		printf("\"rtt_ms\":null,");
	if (probe->first_reply_us)
		printf("\"first_reply_ms\":%.1f,", (double)probe->first_reply_us / 1000);
	else
		printf("\"first_reply_ms\":null,");
	printf("\"interface\":\"%s\",\"address\":\"%s\",\"mac\":\"%s\"", probe->link, address, mac);
	if (probe->error)
		printf(",\"error\":\"%s\"", probe->error);
	puts("}");
	return ok ? 0 : 1;
}

static int open_frames(struct probe *probe)
{
	char mac[18];

	probe->index = (int)if_nametoindex(probe->name);
	interface_mac(probe->name, mac);
	if (parse_mac(mac, probe->mac) < 0)
		return -1;
	return packets_open(probe->index, ECHO_ETHERTYPE, interface_is_port(probe->name));
}

static int run(struct probe *probe)
{
	/* Frames need no address. */
	if (interface_wait(probe->link, probe->name, probe->deadline_us, probe->mac_text ? NULL : &probe->address,
			   &probe->error) < 0)
		return report(probe);
	probe->frames = probe->mac_text ? open_frames(probe) : -1;
	probe->socket = interface_socket(probe->name, SOCK_RAW, IPPROTO_ICMP);
	if (probe->socket < 0) {
		probe->error = strerror(errno);
		return report(probe);
	}
	if (first_reply(probe))
		count_replies(probe);
	return report(probe);
}

int probe_main(int argc, char **argv)
{
	static struct probe probe; /* half a megabyte: an initializer would put it into the file */
	int64_t interval_ms = 10, timeout_ms = 10000;
	const struct arguments arguments = {
		.operands = {&probe.link, &probe.peer_text, &probe.mac_text},
		.required = 2,
		.numbers = {
			{"--count", &probe.count},
			{"--interval-ms", &interval_ms},
			{"--timeout-ms", &timeout_ms},
		},
	};

	probe.count = 5;
	if (arguments_parse(argc, argv, &arguments) < 0 || inet_pton(AF_INET, probe.peer_text, &probe.peer) != 1 ||
	    (probe.mac_text && parse_mac(probe.mac_text, probe.peer_mac) < 0) || probe.count < 0 || probe.count > COUNT_MAX)
		return EXIT_USAGE;
	probe.interval_us = interval_ms * 1000;
	probe.start_us = now_us();
	probe.deadline_us = probe.start_us + timeout_ms * 1000;
	probe.id = (uint16_t)getpid();
	return run(&probe);
}
