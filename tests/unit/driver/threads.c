// SPDX-License-Identifier: GPL-2.0
/* A producer and a consumer on one ring, as two threads that follow docs/shared-memory-layout.md: each byte is compared,
 * and a doorbell that should have come and did not is a failure. `threads RECORDS SEED FIRST_POSITION`
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shm/ring.h"

#define SIZE VSHM_RING_MIN
#define LOST_SECONDS 10

static uint8_t data[SIZE];
static struct vshm_lines producer_lines, consumer_lines;
static sem_t data_bell, room_bell;
static u32 records, seed, first;
static unsigned long doorbells;

/* The full barriers between publishing and looking are in the order of all four, which a sanitizer understands too. */
static u32 look(__le32 *field)
{
	return __atomic_load_n(field, __ATOMIC_SEQ_CST);
}

static void publish(__le32 *field, u32 value)
{
	__atomic_store_n(field, value, __ATOMIC_SEQ_CST);
}

static void fail(const char *what, u32 number)
{
	fprintf(stderr, "record %u: %s\n", number, what);
	exit(1);
}

static void wait_for(sem_t *bell, const char *what, u32 number)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += LOST_SECONDS;
	while (sem_timedwait(bell, &deadline) < 0)
		if (errno != EINTR)
			fail(what, number);
}

static u32 mix(u32 number)
{
	u32 x = number * 2654435761u ^ seed;

	x ^= x >> 15;
	x *= 2246822519u;
	return x ^ x >> 13;
}

static u32 length_of(u32 number)
{
	u32 x = mix(number);

	/* small ones, large ones, and the largest */
	if (x % 7 == 0)
		return VSHM_PACKET_MAX;
	return VSHM_PACKET_MIN + (x >> 8) % (x % 3 ? 1500 : VSHM_PACKET_MAX - VSHM_PACKET_MIN);
}

static void write_header(u32 head, u32 length, u32 flags)
{
	const struct vshm_record record = {.length = length, .flags = (__le16)flags};

	memcpy(data + ivd_offset(head, SIZE), &record, sizeof(record));
}

static void ring(u32 head, u32 *rung)
{
	if (ivd_passed(look(&consumer_lines.event), head, *rung)) {
		doorbells++;
		sem_post(&data_bell);
	}
	*rung = head;
}

static u32 wait_for_room(u32 head, u32 wanted, u32 *rung, u32 number)
{
	u32 tail = look(&consumer_lines.tail), known = tail;

	while (ivd_room(head, tail, SIZE) < wanted) {
		publish(&producer_lines.room_event, ivd_room_position(head, wanted, SIZE));
		tail = look(&consumer_lines.tail);
		if (ivd_room(head, tail, SIZE) < wanted) {
			/* nobody makes room who has not been told of what was saved up */
			ring(head, rung);
			wait_for(&room_bell, "the word that there is room got lost", number);
			tail = look(&consumer_lines.tail);
		}
		if (!ivd_tail_valid(tail, known, head))
			fail("bad tail", number);
		known = tail;
	}
	return tail;
}

static void *produce(void *unused)
{
	u32 head = first, rung = first, number;

	for (number = 0; number < records; number++) {
		u32 length = length_of(number), need = ivd_record_size(length), padding;

		wait_for_room(head, ivd_worst_room(length), &rung, number);
		padding = ivd_padding(head, need, SIZE);
		if (padding) {
			write_header(head, padding - (u32)sizeof(struct vshm_record), VSHM_FLAG_PAD);
			head += padding;
		}
		write_header(head, length, 0);
		memset(data + ivd_offset(head, SIZE) + sizeof(struct vshm_record), (int)mix(number), length);
		head += need;
		publish(&producer_lines.head, head);
		if (mix(number) % 4 == 0) /* else the doorbell is saved up */
			continue;
		ring(head, &rung);
	}
	ring(head, &rung);
	return unused;
}

static u32 wait_for_data(u32 tail, u32 known, u32 number)
{
	u32 head = look(&producer_lines.head);

	while (head == tail) {
		publish(&consumer_lines.event, tail);
		head = look(&producer_lines.head);
		if (head == tail) {
			wait_for(&data_bell, "the word that there is a record got lost", number);
			head = look(&producer_lines.head);
		}
	}
	if (!ivd_head_valid(head, known, tail, SIZE))
		fail("bad head", number);
	return head;
}

static void compare(u32 tail, u32 length, u32 number)
{
	const uint8_t *packet = data + ivd_offset(tail, SIZE) + sizeof(struct vshm_record);
	u32 i;

	if (length != length_of(number))
		fail("wrong length", number);
	for (i = 0; i < length; i++)
		if (packet[i] != (uint8_t)mix(number))
			fail("wrong contents", number);
}

static void *consume(void *unused)
{
	u32 tail = first, head = first, number = 0, rung = first;

	while (number < records) {
		struct vshm_record record;

		if (head == tail)
			head = wait_for_data(tail, head, number);
		memcpy(&record, data + ivd_offset(tail, SIZE), sizeof(record));
		if (record.flags == VSHM_FLAG_PAD) {
			if (!ivd_padding_valid(record.length, tail, head - tail, SIZE))
				fail("bad padding", number);
		} else {
			if (!ivd_packet_valid(record.length, tail, head - tail, SIZE))
				fail("bad record", number);
			compare(tail, record.length, number++);
		}
		tail += ivd_record_size(record.length);
		publish(&consumer_lines.tail, tail);
		if (mix(number) % 3 == 0 && tail != head)
			continue;
		if (ivd_passed(look(&producer_lines.room_event), tail, rung))
			sem_post(&room_bell);
		rung = tail;
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];

	if (argc != 4)
		return 2;
	records = (u32)strtoul(argv[1], NULL, 0);
	seed = (u32)strtoul(argv[2], NULL, 0);
	first = (u32)strtoul(argv[3], NULL, 0);
	producer_lines.head = consumer_lines.tail = first;
	producer_lines.room_event = consumer_lines.event = first - 1;
	sem_init(&data_bell, 0, 0);
	sem_init(&room_bell, 0, 0);
	pthread_create(&threads[0], NULL, produce, NULL);
	pthread_create(&threads[1], NULL, consume, NULL);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	printf("%u records, %lu doorbells\n", records, doorbells);
	return 0;
}
