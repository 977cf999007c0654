// SPDX-License-Identifier: GPL-2.0
/* The devices on the bus: a control page or a link of some kind, told apart; and the module. */
#include <linux/module.h>
#include <linux/pm.h>
#include <linux/rtnetlink.h>

#include "compat.h"
#include "link.h"

/* A BAR that the firmware or the bus had no room for has no start, and the device is probed all
 * the same.
 */
static bool vshm_bars_valid(struct pci_dev *pdev)
{
	return pci_resource_start(pdev, VSHM_BAR_REGISTERS) &&
	       pci_resource_len(pdev, VSHM_BAR_REGISTERS) >= VSHM_REGISTERS_SIZE &&
	       pci_resource_start(pdev, VSHM_BAR_MEMORY) &&
	       pci_resource_len(pdev, VSHM_BAR_MEMORY) >= VSHM_REGION_MIN;
}

static const struct vshm_kind *vshm_kind(u32 kind)
{
	switch (kind) {
	case VSHM_KIND_NET:
		return &ivd_kind;
	case VSHM_KIND_VHOST_PCI:
		return &vhp_kind;
	default:
		return NULL;
	}
}

/* Asks the device for its id, and the control page who that is. */
static const struct vshm_kind *vshm_identify(struct pci_dev *pdev, void __iomem *registers,
					     struct vshm_identity *identity)
{
	int ret = vshm_control_find(pdev, readl(registers + VSHM_IVPOSITION), identity);
	const struct vshm_kind *kind;

	if (ret == -ESTALE) {
		/* Called off before we met it: the host waits for our word. */
		if (identity->kind == VSHM_KIND_VHOST_PCI)
			vshm_answer(identity, VSHM_ANSWER_OFF, 0, 0);
		vshm_write_doorbell(registers, identity->host << 16 | VSHM_VECTOR_CONTROL);
		return ERR_PTR(-ENODEV);
	}
	if (ret)
		return ERR_PTR(ret);
	kind = vshm_kind(identity->kind);
	if (!kind)
		return ERR_PTR(-ENODEV);
	if (identity->region_size != pci_resource_len(pdev, VSHM_BAR_MEMORY))
		return ERR_PTR(dev_err_probe(&pdev->dev, -EINVAL,
					     "BAR2 is not of the host's %llu bytes\n",
					     identity->region_size));
	return kind;
}

static int vshm_probe_link(struct pci_dev *pdev)
{
	struct vshm_identity identity;
	const struct vshm_kind *kind;
	void __iomem *registers;
	int ret;

	if (!vshm_bars_valid(pdev))
		return dev_err_probe(&pdev->dev, -ENODEV, "a BAR has no place, or no fit size\n");
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	ret = pci_request_regions(pdev, VSHM_NAME);
	if (ret)
		goto err_disable;
	registers = pci_iomap(pdev, VSHM_BAR_REGISTERS, 0);
	if (!registers) {
		ret = -ENOMEM;
		goto err_release;
	}
	kind = vshm_identify(pdev, registers, &identity);
	if (IS_ERR(kind)) {
		ret = PTR_ERR(kind);
		goto err_unmap;
	}
	pci_set_master(pdev);
	ret = vshm_link_probe(pdev, registers, &identity, kind);
	if (ret)
		goto err_clear_master;
	return 0;

err_clear_master:
	pci_clear_master(pdev);
err_unmap:
	pci_iounmap(pdev, registers);
err_release:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

static int vshm_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	if (pdev->msix_cap)
		return vshm_probe_link(pdev);
	return vshm_control_is_candidate(pdev) ? vshm_control_probe(pdev) : -ENODEV;
}

static void vshm_remove(struct pci_dev *pdev)
{
	struct vshm_link *link = pci_get_drvdata(pdev);
	void __iomem *registers;

	if (!pdev->msix_cap) {
		vshm_control_remove(pdev);
		return;
	}
	registers = link->registers;
	vshm_link_remove(link);
	pci_clear_master(pdev);
	pci_iounmap(pdev, registers);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}

/* A device whose lock is taken is about to come or go. */
static int vshm_leave(struct device *dev, void *unused)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	struct vshm_link *link;

	if (!pdev->msix_cap || !device_trylock(dev))
		return 0;
	link = pci_get_drvdata(pdev);
	if (link)
		vshm_link_leave(link);
	device_unlock(dev);
	return 0;
}

/* A guest that shuts down says so to host and peers. Where a host does not answer each link waits a
 * second. The first that shuts down has all the others begin, so that they wait together.
 */
static void vshm_shutdown(struct pci_dev *pdev)
{
	struct vshm_link *link = pci_get_drvdata(pdev);

	if (!pdev->msix_cap)
		return;
	/* It fails for an invalid driver only. */
	if (driver_for_each_device(pdev->dev.driver, NULL, NULL, vshm_leave))
		dev_dbg(&pdev->dev, "not all links could be asked to go off\n");
	rtnl_lock();
	dev_close(link->dev);
	rtnl_unlock();
}

/* Peer and host know before the machine sleeps: for them it is as if the interface was down. What
 * BAR2 is afterwards, after hibernation even the memory of another peer, is the slot's to say, and
 * nothing is touched before that was looked at.
 */
static int vshm_pm_suspend(struct device *dev)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	struct vshm_link *link = pci_get_drvdata(pdev);

	if (!pdev->msix_cap)
		return 0;
	rtnl_lock();
	vshm_link_down(link);
	rtnl_unlock();
	return 0;
}

/* A machine that wakes from hibernation may be in another QEMU, whose device has another id and the
 * memory of another peer. That link stays off.
 */
static int vshm_pm_resume(struct device *dev)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	struct vshm_link *link = pci_get_drvdata(pdev);
	bool same;

	if (!pdev->msix_cap)
		return 0;
	same = readl(link->registers + VSHM_IVPOSITION) == link->identity.ivposition;
	rtnl_lock();
	/* Its slot may still be on: the interface must not be opened again either. */
	if (!same)
		netif_device_detach(link->dev);
	else if (netif_running(link->dev))
		vshm_link_up(link);
	else
		vshm_link_kick(link);
	rtnl_unlock();
	if (!same)
		dev_err(dev, "the device is not the one that was suspended; its link stays down\n");
	return same ? 0 : -ENODEV;
}

static DEFINE_SIMPLE_DEV_PM_OPS(vshm_pm_ops, vshm_pm_suspend, vshm_pm_resume);

static const struct pci_device_id vshm_ids[] = {
	{ PCI_DEVICE(VSHM_PCI_VENDOR, VSHM_PCI_DEVICE) },
	{ 0 }
};
MODULE_DEVICE_TABLE(pci, vshm_ids);

static struct pci_driver vshm_driver = {
	.name = VSHM_NAME,
	.id_table = vshm_ids,
	.probe = vshm_probe,
	.remove = vshm_remove,
	.shutdown = vshm_shutdown,
	.driver.pm = pm_sleep_ptr(&vshm_pm_ops),
};

static int __init vshm_init(void)
{
	return pci_register_driver(&vshm_driver);
}
module_init(vshm_init);

static void __exit vshm_exit(void)
{
	pci_unregister_driver(&vshm_driver);
	vshm_control_forget();
}
module_exit(vshm_exit);

MODULE_DESCRIPTION("Network links between virtual machines through shared memory (ivshmem)");
MODULE_AUTHOR("The vpctl authors");
MODULE_LICENSE("GPL");
