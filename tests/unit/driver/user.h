/* SPDX-License-Identifier: GPL-2.0 */
/* What the driver's pure parts take from the kernel, for user space. */
#ifndef USER_H
#define USER_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define __force
#define unlikely(x)			__builtin_expect(!!(x), 0)
/* Accesses that a thread sanitizer knows for what they are. */
#define READ_ONCE(x)			__atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, value)		__atomic_store_n(&(x), (value), __ATOMIC_RELAXED)
#define virt_load_acquire(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define virt_store_release(p, value)	__atomic_store_n(p, value, __ATOMIC_RELEASE)
#define virt_mb()			__atomic_thread_fence(__ATOMIC_SEQ_CST)

#define le16_to_cpu(x)	le16toh(x)
#define le32_to_cpu(x)	le32toh(x)
#define le64_to_cpu(x)	le64toh(x)
#define cpu_to_le16(x)	htole16(x)
#define cpu_to_le32(x)	htole32(x)

#endif
