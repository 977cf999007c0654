// SPDX-License-Identifier: Apache-2.0
#include "links.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

int parse_mac(const char *text, uint8_t mac[6])
{
	int end = 0;

	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
		   &end) != 6)
		return -1;
	return text[end] ? -1 : 0;
}

static int parse_line(const char *line, struct link *link)
{
	char mac[18], address[16], peer[16], rest;
	int found;

	memset(link, 0, sizeof(*link));
	link->echoes = -1;
	found = sscanf(line, "%17s %15s %15[0-9.]/%u %u %15s %c", mac, link->name, address, &link->prefix, &link->mtu, peer,
		       &rest);
	if (found != 5 && found != 6)
		return -1;
	if (found == 6 && inet_pton(AF_INET, peer, &link->peer) != 1)
		return -1;
	if (parse_mac(mac, link->mac) < 0 || inet_pton(AF_INET, address, &link->address) != 1)
		return -1;
	return link->prefix <= 32 && link->mtu >= 68 && link->mtu <= 65535 ? 0 : -1;
}

int links_parse(const char *text, struct links *links)
{
	int number = 0;

	links->count = 0;
	while (*text) {
		size_t length = strcspn(text, "\n");
		char line[128];

		number++;
		if (length >= sizeof(line))
			return number;
		memcpy(line, text, length);
		line[length] = '\0';
		text += length + (text[length] == '\n');
		if (line[strspn(line, " \t")] == '\0' || line[0] == '#')
			continue;
		if (links->count == LINKS_MAX || parse_line(line, &links->link[links->count]) < 0)
			return number;
		links->count++;
	}
	return 0;
}

struct link *links_by_mac(struct links *links, const uint8_t mac[6])
{
	for (size_t i = 0; i < links->count; i++)
		if (memcmp(links->link[i].mac, mac, 6) == 0)
			return &links->link[i];
	return NULL;
}

struct link *links_by_name(struct links *links, const char *name)
{
	for (size_t i = 0; i < links->count; i++)
		if (strcmp(links->link[i].name, name) == 0)
			return &links->link[i];
	return NULL;
}

struct link *links_by_index(struct links *links, int index)
{
	for (size_t i = 0; i < links->count; i++)
		if (links->link[i].index == index)
			return &links->link[i];
	return NULL;
}
