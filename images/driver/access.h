/* SPDX-License-Identifier: GPL-2.0 */
/* Access to memory that others write. Every field is read once, into a local, and used from
 * there. The barriers are the virt_ ones: the other side is another machine's CPU, even where
 * this kernel runs on one.
 */
#ifndef VSHM_ACCESS_H
#define VSHM_ACCESS_H

#include <asm/barrier.h>
#include <linux/compiler.h>
#include <linux/types.h>
#include <asm/byteorder.h>

static inline u32 vshm_read(const __le32 *field)
{
	return le32_to_cpu(READ_ONCE(*field));
}

static inline u16 vshm_read16(const __le16 *field)
{
	return le16_to_cpu(READ_ONCE(*field));
}

static inline u64 vshm_read64(const __le64 *field)
{
	return le64_to_cpu(READ_ONCE(*field));
}

/* What the writer wrote before it published the value is seen by whatever comes after this. */
static inline u32 vshm_acquire(const __le32 *field)
{
	/* pairs with vshm_publish() of the writer */
	return le32_to_cpu(virt_load_acquire(field));
}

/* A reader that acquires the value also sees what was written before it. */
static inline void vshm_publish(__le32 *field, u32 value)
{
	/* pairs with vshm_acquire() of the reader */
	virt_store_release(field, cpu_to_le32(value));
}

/* Between publishing one's own position and reading the other's wish to be rung, on both sides:
 * one of the two sees the other's.
 */
static inline void vshm_full_barrier(void)
{
	/* pairs with itself, on the other side */
	virt_mb();
}

#endif /* VSHM_ACCESS_H */
