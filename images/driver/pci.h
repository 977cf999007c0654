/* SPDX-License-Identifier: GPL-2.0 */
/* What QEMU's ivshmem devices look like on the bus. */
#ifndef VSHM_PCI_H
#define VSHM_PCI_H

#include <linux/io.h>

#define VSHM_NAME		"vpctl_ivshmem"

#define VSHM_PCI_VENDOR		0x1af4
#define VSHM_PCI_DEVICE		0x1110

#define VSHM_BAR_REGISTERS	0
#define VSHM_BAR_MEMORY		2

#define VSHM_REGISTERS_SIZE	16
#define VSHM_IVPOSITION		8	/* read: the device's own id */
#define VSHM_DOORBELL		12	/* write: id << 16 | vector */

static inline void vshm_write_doorbell(void __iomem *registers, u32 doorbell)
{
	/* writel orders what was written to memory before it */
	writel(doorbell, registers + VSHM_DOORBELL);
}

#endif /* VSHM_PCI_H */
