/* SPDX-License-Identifier: GPL-2.0 */
/* The control page: the host's word on what each device is. */
#ifndef VSHM_CONTROL_H
#define VSHM_CONTROL_H

#include <linux/if_ether.h>
#include <linux/pci.h>
#include <linux/types.h>

#include "layout.h"

/* A slot as it was when its device was met: checked, and from then on the only copy that is
 * used.
 */
struct vshm_identity {
	struct vshm_slot *slot;		/* still the host's: some of it is read again */
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
/* Frees what is kept of devices that are no control pages; no device is probed any more. */
void vshm_control_forget(void);

/* Fills in who the device with this IVPosition is, and ties the device to its control page, without
 * which it is unbound. -ENODEV: none of ours. -EPROBE_DEFER: a control page is there that has no
 * driver yet. -ESTALE: called off already.
 */
int vshm_control_find(struct pci_dev *pdev, u32 ivposition, struct vshm_identity *identity);

/* Writes what the driver says of the link into its slot, and returns the answer's number. The
 * caller rings the host afterwards. One at a time.
 */
u32 vshm_answer(const struct vshm_identity *identity, enum vshm_answer_state state, u32 sequence,
		u64 features);

/* Has the host changed the slot since it was read? Of the first kind of links that means another
 * peer, or for now none (id 0), with the generation that counts from here on: vshm_control_renew()
 * takes it in. One at a time.
 */
bool vshm_control_changed(const struct vshm_identity *identity);
void vshm_control_renew(struct vshm_identity *identity);

/* Has the host called the link off? */
bool vshm_control_is_off(const struct vshm_identity *identity);

#endif /* VSHM_CONTROL_H */
