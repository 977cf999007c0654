/* SPDX-License-Identifier: Apache-2.0 */
/* attach_xdp INTERFACE: give a driver an XDP program that passes every packet, and take it away again. Says `attached`, or
 * the error and ends with 1. In the driver, not in the generic hook, which any interface has.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_XDP,
		.insns = (uintptr_t)pass,
		.insn_cnt = sizeof(pass) / sizeof(*pass),
		.license = (uintptr_t)"GPL",
	};
	union bpf_attr attach = {0};
	long program;

	if (argc != 2)
		return 2;
	program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	if (program < 0) {
		printf("load: %s\n", strerror(errno));
		return 3;
	}
	attach.link_create.prog_fd = (uint32_t)program;
	attach.link_create.target_ifindex = if_nametoindex(argv[1]);
	attach.link_create.attach_type = BPF_XDP;
	attach.link_create.flags = XDP_FLAGS_DRV_MODE;
	if (syscall(SYS_bpf, BPF_LINK_CREATE, &attach, sizeof(attach)) < 0) {
		puts(strerror(errno));
		return 1;
	}
	puts("attached");
	return 0;
}
