/* SPDX-License-Identifier: GPL-2.0 */
/* The control page: the host's word on what each device is. */
#ifndef VSHM_CONTROL_H
#define VSHM_CONTROL_H

#include <linux/if_ether.h>
#include <linux/pci.h>
#include <linux/types.h>

#include "layout.h"

/**
 * struct vshm_identity - a slot as it was when its device was met: checked, and the copy to use
 * @slot: still the host's; some of it is read again
 * @sequence: which change of the slot was taken in
 * @ivposition: the device's id
 * @generation: of the link
 * @kind: enum vshm_slot_kind
 * @role: 0 or 1, of the two ends of an ivshmem-doorbell link
 * @peer: the other end's id, or 0
 * @host: the host's id
 * @queue_pairs: how many the interface has
 * @mtu: of the interface, or 0
 * @mac: of the interface
 * @region_size: of BAR2
 * @data_offset: where in BAR2 the rings of an ivshmem-doorbell link begin
 * @ring_size: of each of them
 */
struct vshm_identity {
	struct vshm_slot *slot;
	u32 sequence;
	u32 ivposition;
	u32 generation;
	u32 kind;
	u32 role;
	u32 peer;
	u32 host;
	u32 queue_pairs;
	u32 mtu;
	u8 mac[ETH_ALEN];
	u64 region_size;
	u32 data_offset;
	u32 ring_size;
};

bool vshm_control_is_candidate(struct pci_dev *pdev);
int vshm_control_probe(struct pci_dev *pdev);
void vshm_control_remove(struct pci_dev *pdev);
void vshm_control_forget(void);

int vshm_control_find(struct pci_dev *pdev, u32 ivposition, struct vshm_identity *identity);
bool vshm_control_is_off(const struct vshm_identity *identity);
bool vshm_control_changed(const struct vshm_identity *identity);
void vshm_control_renew(struct vshm_identity *identity);
u32 vshm_answer(const struct vshm_identity *identity, enum vshm_answer_state state, u32 sequence,
		u64 features);

#endif /* VSHM_CONTROL_H */
