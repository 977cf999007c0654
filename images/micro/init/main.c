// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "init.h"

int main(void)
{
	/* The host takes this line for the end of the kernel's part of the boot. */
	say("vpctl: userspace");
	mount_kernel_filesystems();
	load_modules("/modules/order");
	enter_root();
	apply_settings();
	configure_management();
	start_services();
	run_forever();
}
