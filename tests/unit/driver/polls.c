// SPDX-License-Identifier: GPL-2.0
/* A peer that makes buffers available, and two CPUs of which each may be the one that polls, as interrupts have it: NAPI
 * as the kernel has it, and the driver's own end of a poll. A wake-up that gets lost, a buffer that is completed twice
 * or out of order, and a field of the ring that is touched by a CPU that no longer has NAPI (a thread sanitizer sees
 * that) are failures. `polls BUFFERS SEED`
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "vhost/vring.h"

#define SIZE		64u
#define BUDGET		16
#define CPUS		2
#define LOST_SECONDS	10

/* What is needed of NAPI. */
#define NAPI_SCHED	1u
#define NAPI_MISSED	2u

struct napi_struct {
	unsigned int state;
};

static sem_t due[CPUS];
static struct napi_struct napi;
static __thread unsigned int dice;
static __thread int this_cpu;
static bool over;

static unsigned int roll(void)
{
	dice = dice * 1664525u + 1013904223u;
	return dice >> 8;
}

/* A hard interrupt, or the host has no time for this vCPU. */
static void delay(void)
{
	unsigned int turns = roll() % 4 ? 0 : roll() % 20;

	while (turns--)
		sched_yield();
}

static void napi_schedule(int cpu)
{
	unsigned int old = __atomic_load_n(&napi.state, __ATOMIC_RELAXED), new;

	do {
		new = old | NAPI_SCHED | (old & NAPI_SCHED ? NAPI_MISSED : 0);
	} while (!__atomic_compare_exchange_n(&napi.state, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (!(old & NAPI_SCHED))
		sem_post(&due[cpu]);
}

static bool napi_complete_done(struct napi_struct *done, int count)
{
	unsigned int old = __atomic_load_n(&done->state, __ATOMIC_RELAXED), new;

	(void)count;
	delay();
	do {
		new = old & NAPI_MISSED ? NAPI_SCHED : 0;
	} while (!__atomic_compare_exchange_n(&done->state, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (old & NAPI_MISSED)
		sem_post(&due[this_cpu]);
	delay();
	return !(old & NAPI_MISSED);
}

#include "poll.h"

static struct {
	struct vring_desc desc[SIZE];
	struct { struct vring_avail head; __virtio16 ring[SIZE + 1]; } avail;
	struct { struct vring_used head; struct vring_used_elem ring[SIZE]; __virtio16 event; } used;
} __attribute__((aligned(64))) shared;

static struct vhp_ring ring = {
	.desc = shared.desc, .avail = &shared.avail.head, .used = &shared.used.head, .size = SIZE, .event_idx = true,
};

static void fail(const char *what, unsigned int number)
{
	fprintf(stderr, "buffer %u: %s\n", number, what);
	exit(1);
}

static bool more(void)
{
	if (vhp_waiting(&ring))
		return true;
	if (!vhp_look(&ring))
		fail("an available index that cannot be", ring.next);
	return vhp_waiting(&ring);
}

static bool may_sleep(struct napi_struct *ours)
{
	(void)ours;
	vhp_ask(&ring, ring.next);
	return !more();
}

static int poll_ring(void)
{
	int done = 0;

	while (done < BUDGET && more()) {
		vhp_complete(&ring, 0, vhp_head(&ring, 0), 0);
		ring.next++;
		done++;
	}
	if (!vhp_publish(&ring))
		fail("a used index that is not ours", ring.next);
	return vshm_end_poll(&napi, done, BUDGET, may_sleep);
}

static void *be_cpu(void *number)
{
	this_cpu = (int)(long)number;
	dice += (unsigned int)this_cpu;
	for (;;) {
		sem_wait(&due[this_cpu]);
		if (__atomic_load_n(&over, __ATOMIC_ACQUIRE))
			return NULL;
		while (poll_ring() == BUDGET)
			delay();
	}
}

/* Until at most so many are not completed yet. */
static void wait_for_used(unsigned int posted, unsigned int most)
{
	time_t began = time(NULL);

	while ((u16)(posted - __atomic_load_n(&shared.used.head.idx, __ATOMIC_ACQUIRE)) > most) {
		if (time(NULL) > began + LOST_SECONDS)
			fail("the wake-up for it or one before it got lost", posted);
		sched_yield();
	}
}

static void take_used(unsigned int *taken)
{
	u16 used = __atomic_load_n(&shared.used.head.idx, __ATOMIC_ACQUIRE);

	for (; (u16)*taken != used; ++*taken)
		if (READ_ONCE(shared.used.ring[*taken % SIZE].id) != *taken % SIZE)
			fail("completed twice, or out of order", *taken);
}

/* Posts a buffer or some, and kicks if that is wanted; at times both vectors of the pair fire. */
static void be_peer(unsigned int buffers)
{
	unsigned int posted = 0, taken = 0;

	while (posted < buffers) {
		u16 old = (u16)posted, event;
		unsigned int burst = 1 + (roll() % 3 ? 0 : roll() % 8);

		wait_for_used(posted, roll() % SIZE);
		take_used(&taken);
		while (burst-- && posted - taken < SIZE && posted < buffers) {
			WRITE_ONCE(shared.avail.head.ring[posted % SIZE], (__virtio16)(posted % SIZE));
			posted++;
		}
		__atomic_store_n(&shared.avail.head.idx, (u16)posted, __ATOMIC_RELEASE);
		virt_mb();
		event = READ_ONCE(shared.used.event);
		if (vring_need_event(event, (u16)posted, old))
			napi_schedule(roll() % CPUS);
		if (roll() % 3 == 0)
			napi_schedule(roll() % CPUS);
	}
	wait_for_used(posted, 0);
	take_used(&taken);
}

int main(int argc, char **argv)
{
	pthread_t cpus[CPUS];
	unsigned int buffers;
	int cpu;

	if (argc != 3)
		return 2;
	buffers = (unsigned int)strtoul(argv[1], NULL, 0);
	dice = (unsigned int)strtoul(argv[2], NULL, 0);
	vhp_continue(&ring);
	for (cpu = 0; cpu < CPUS; cpu++) {
		sem_init(&due[cpu], 0, 0);
		pthread_create(&cpus[cpu], NULL, be_cpu, (void *)(long)cpu);
	}
	be_peer(buffers);
	__atomic_store_n(&over, true, __ATOMIC_RELEASE);
	for (cpu = 0; cpu < CPUS; cpu++)
		sem_post(&due[cpu]);
	for (cpu = 0; cpu < CPUS; cpu++)
		pthread_join(cpus[cpu], NULL);
	return 0;
}
