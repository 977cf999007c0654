// SPDX-License-Identifier: GPL-2.0
/* guard.h as a library, for the property tests: one allowance. */
#include <stdbool.h>
#include <linux/types.h>

typedef __u32 u32;

#include "guard.h"

static struct vshm_allowance allowance;

void set_allowance(u32 now) { vshm_set_allowance(&allowance, now); }
void earn(u32 count) { vshm_earn(&allowance, count); }
u32 spend(u32 now) { return vshm_spend(&allowance, now); }
u32 left(void) { return allowance.left; }
