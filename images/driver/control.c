// SPDX-License-Identifier: GPL-2.0
/* Control pages: finding them, and finding in them who a device is. */
#include "control.h"

#include <linux/device.h>
#include <linux/io.h>
#include <linux/list.h>
#include <linux/log2.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "access.h"
#include "pci.h"

struct vshm_control {
	struct list_head list;
	struct pci_dev *pdev;
	u8 *page;
};

static LIST_HEAD(vshm_controls);
static DEFINE_MUTEX(vshm_controls_lock);	/* guards the list */

/* Where on the buses devices are that look like control pages and are none: nothing waits for them.
 * A control page is there from its machine's start; one that is plugged later, where such a device
 * was, is found by links that come after it.
 */
static DEFINE_XARRAY(vshm_foreign);

/**
 * vshm_control_is_candidate() - can a device be a control page?
 * @pdev: an ivshmem device
 *
 * Return: true if it has no interrupts and is of the right size; its header decides.
 */
bool vshm_control_is_candidate(struct pci_dev *pdev)
{
	return !pdev->msix_cap && pci_resource_start(pdev, VSHM_BAR_MEMORY) &&
	       pci_resource_len(pdev, VSHM_BAR_MEMORY) == VSHM_CONTROL_SIZE;
}

static bool vshm_control_header_valid(const struct vshm_control_header *header)
{
	return vshm_read(&header->magic) == VSHM_CONTROL_MAGIC &&
	       vshm_read16(&header->version) == VSHM_CONTROL_VERSION &&
	       vshm_read16(&header->slot_size) == VSHM_SLOT_SIZE &&
	       vshm_read16(&header->slots) == VSHM_SLOTS;
}

static unsigned long vshm_bus_place(struct pci_dev *pdev)
{
	return (unsigned long)pci_domain_nr(pdev->bus) << 16 | pci_dev_id(pdev);
}

/**
 * vshm_control_probe() - take a control page into use
 * @pdev: a candidate
 *
 * Return: 0, -ENODEV if it is no control page, or another error.
 */
int vshm_control_probe(struct pci_dev *pdev)
{
	struct vshm_control *control;
	void *page;
	int ret;

	control = devm_kzalloc(&pdev->dev, sizeof(*control), GFP_KERNEL);
	if (!control)
		return -ENOMEM;
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	ret = pci_request_region(pdev, VSHM_BAR_MEMORY, VSHM_NAME);
	if (ret)
		goto err_disable;
	page = memremap(pci_resource_start(pdev, VSHM_BAR_MEMORY), VSHM_CONTROL_SIZE, MEMREMAP_WB);
	if (!page) {
		ret = -ENOMEM;
		goto err_release;
	}
	if (!vshm_control_header_valid(page)) {
		/* If there is no memory for this, links go on waiting, as they did before. */
		xa_store(&vshm_foreign, vshm_bus_place(pdev), xa_mk_value(1), GFP_KERNEL);
		ret = -ENODEV;
		goto err_unmap;
	}
	xa_erase(&vshm_foreign, vshm_bus_place(pdev));
	control->pdev = pdev;
	control->page = page;
	pci_set_drvdata(pdev, control);
	mutex_lock(&vshm_controls_lock);
	list_add_tail(&control->list, &vshm_controls);
	mutex_unlock(&vshm_controls_lock);
	return 0;

err_unmap:
	memunmap(page);
err_release:
	pci_release_region(pdev, VSHM_BAR_MEMORY);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

/**
 * vshm_control_remove() - undo vshm_control_probe()
 * @pdev: the device
 *
 * The links that were found by this page are gone: each has a device link to it.
 */
void vshm_control_remove(struct pci_dev *pdev)
{
	struct vshm_control *control = pci_get_drvdata(pdev);

	mutex_lock(&vshm_controls_lock);
	list_del(&control->list);
	mutex_unlock(&vshm_controls_lock);
	memunmap(control->page);
	pci_release_region(pdev, VSHM_BAR_MEMORY);
	pci_disable_device(pdev);
}

/**
 * vshm_control_forget() - free what is kept of devices that are no control pages
 *
 * No device is probed any more.
 */
void vshm_control_forget(void)
{
	xa_destroy(&vshm_foreign);
}

static bool vshm_slot_holds(const struct vshm_slot *slot, u32 ivposition)
{
	u32 state = vshm_acquire(&slot->state);

	return (state == VSHM_SLOT_ON || state == VSHM_SLOT_OFF) &&
	       vshm_read(&slot->ivposition) == ivposition;
}

static struct vshm_slot *vshm_find_slot(const struct vshm_control *control, u32 ivposition)
{
	u32 i;

	for (i = 0; i < VSHM_SLOTS; i++) {
		void *slot = control->page + VSHM_SLOT_SIZE * (i + 1);

		if (vshm_slot_holds(slot, ivposition))
			return slot;
	}
	return NULL;
}

static bool vshm_rings_valid(const struct vshm_identity *identity)
{
	u64 rings = 2ULL * identity->queue_pairs * identity->ring_size;

	if (!is_power_of_2(identity->ring_size) || identity->ring_size < VSHM_RING_MIN ||
	    identity->ring_size > VSHM_RING_MAX)
		return false;
	if (identity->data_offset < VSHM_DATA_MIN || identity->data_offset % VSHM_PAGE_SIZE)
		return false;
	return identity->data_offset + rings <= identity->region_size;
}

/* The host is trusted, but a page that was cut or is of another version must not take the
 * kernel along.
 */
static bool vshm_identity_valid(const struct vshm_identity *identity)
{
	if (identity->ivposition > U16_MAX || identity->peer > U16_MAX || identity->host > U16_MAX)
		return false;
	if (!identity->generation || identity->region_size < VSHM_REGION_MIN)
		return false;
	if (!identity->queue_pairs || identity->queue_pairs > VSHM_QUEUE_PAIRS_MAX)
		return false;
	/* What else is in the slot is looked at when the link is connected, if it is no link of
	 * the first kind.
	 */
	return identity->kind != VSHM_KIND_NET ||
	       (identity->role <= 1 && vshm_rings_valid(identity));
}

static void vshm_read_slot(struct vshm_slot *slot, struct vshm_identity *identity)
{
	int i;

	identity->slot = slot;
	/* First: what is changed while the rest is read is met as a change. */
	identity->sequence = vshm_acquire(&slot->sequence);
	identity->ivposition = vshm_read(&slot->ivposition);
	identity->generation = vshm_read(&slot->generation);
	identity->kind = vshm_read16(&slot->kind);
	identity->role = vshm_read16(&slot->role);
	identity->peer = vshm_read(&slot->peer);
	identity->host = vshm_read(&slot->host);
	identity->queue_pairs = vshm_read16(&slot->queue_pairs);
	identity->mtu = vshm_read16(&slot->mtu);
	for (i = 0; i < ETH_ALEN; i++)
		identity->mac[i] = READ_ONCE(slot->mac[i]);
	identity->region_size = vshm_read64(&slot->region_size);
	identity->data_offset = vshm_read(&slot->data_offset);
	identity->ring_size = vshm_read(&slot->ring_size);
}

/* Is there a device that may be a control page, and was not probed yet? Those of other drivers are
 * none, nor are those that were found to be none.
 */
static bool vshm_control_is_awaited(void)
{
	struct pci_dev *other = NULL;

	while ((other = pci_get_device(VSHM_PCI_VENDOR, VSHM_PCI_DEVICE, other)))
		if (vshm_control_is_candidate(other) && !other->dev.driver &&
		    !xa_load(&vshm_foreign, vshm_bus_place(other))) {
			pci_dev_put(other);
			return true;
		}
	return false;
}

/**
 * vshm_control_find() - find out who a device is
 * @pdev: the device, which is unbound when its control page goes
 * @ivposition: its id
 * @identity: gets its slot
 *
 * Return: 0; -ENODEV if no control page knows it; -EPROBE_DEFER if there is a control page that has
 * no driver yet; -ESTALE if its link is off already, with @identity filled in; -EINVAL or -ENOMEM.
 */
int vshm_control_find(struct pci_dev *pdev, u32 ivposition, struct vshm_identity *identity)
{
	struct vshm_slot *slot = NULL;
	struct vshm_control *control;
	int ret = -ENODEV;

	mutex_lock(&vshm_controls_lock);
	if (list_empty(&vshm_controls) && vshm_control_is_awaited())
		ret = -EPROBE_DEFER;
	list_for_each_entry(control, &vshm_controls, list) {
		slot = vshm_find_slot(control, ivposition);
		if (slot)
			break;
	}
	if (!slot)
		goto out;
	vshm_read_slot(slot, identity);
	ret = -EINVAL;
	if (!vshm_identity_valid(identity))
		goto out;
	ret = -ESTALE;
	if (vshm_control_is_off(identity) || identity->ivposition != ivposition)
		goto out;
	/* When the control page goes its links are unbound first, and bound again when it is
	 * back.
	 */
	ret = 0;
	if (!device_link_add(&pdev->dev, &control->pdev->dev, DL_FLAG_AUTOPROBE_CONSUMER))
		ret = -ENOMEM;
out:
	mutex_unlock(&vshm_controls_lock);
	return ret;
}

/**
 * vshm_control_is_off() - has the host called the link off?
 * @identity: the link's slot
 *
 * Return: true if it has.
 */
bool vshm_control_is_off(const struct vshm_identity *identity)
{
	return vshm_acquire(&identity->slot->state) != VSHM_SLOT_ON ||
	       vshm_read(&identity->slot->ivposition) != identity->ivposition;
}

/**
 * vshm_control_changed() - has the host changed the slot since vshm_control_renew()?
 * @identity: the link's slot
 *
 * Return: true if it has. For ivshmem-doorbell that means another peer.
 */
bool vshm_control_changed(const struct vshm_identity *identity)
{
	return vshm_read(&identity->slot->sequence) != identity->sequence;
}

/**
 * vshm_control_renew() - take in another peer, or that there is none for now
 * @identity: the link's slot; its peer and generation are read again
 *
 * One at a time.
 */
void vshm_control_renew(struct vshm_identity *identity)
{
	u32 sequence = vshm_acquire(&identity->slot->sequence);
	u32 generation = vshm_read(&identity->slot->generation);
	u32 peer = vshm_read(&identity->slot->peer);

	identity->sequence = sequence;
	identity->peer = peer <= U16_MAX ? peer : 0;
	if (generation)
		identity->generation = generation;
}

/**
 * vshm_answer() - write what the driver says of the link into its slot
 * @identity: the link's slot
 * @state: whether the driver uses the link
 * @sequence: which change of the slot was taken in
 * @features: those that the driver has accepted
 *
 * The caller rings the host afterwards. One at a time.
 *
 * Return: the answer's number.
 */
u32 vshm_answer(const struct vshm_identity *identity, enum vshm_answer_state state, u32 sequence,
		u64 features)
{
	struct vshm_answer *answer = &identity->slot->answer;
	u32 request = vshm_read(&answer->request) + 1;

	vshm_publish(&answer->state, state);
	vshm_publish(&answer->ivposition, identity->ivposition);
	vshm_publish(&answer->sequence, sequence);
	WRITE_ONCE(answer->features, cpu_to_le64(features));
	vshm_publish(&answer->request, request);
	return request;
}
