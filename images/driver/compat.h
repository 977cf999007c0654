/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between the kernels that this is built for, Debian's 6.1, 6.12 and 7.x; nothing
 * else knows versions.
 */
#ifndef VSHM_COMPAT_H
#define VSHM_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "vpctl_ivshmem needs Linux 6.1 or newer"
#endif

#endif /* VSHM_COMPAT_H */
