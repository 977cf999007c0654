// SPDX-License-Identifier: GPL-2.0
/* Faults on purpose, for those who test what survives them. Loading the module is the fault:
 *
 *	modprobe vpctl_fault how=hang
 *		All CPUs stand still, with interrupts off. Does not return.
 *	modprobe vpctl_fault how=wedge interface=lan0 [seconds=20]
 *		The interface's driver gets no chance to poll: packets wait, and so does
 *		a process that takes the interface down. It ends after so many seconds, or never.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/workqueue.h>

static char *how = "";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "hang or wedge");

static char *interface = "";
module_param(interface, charp, 0);
MODULE_PARM_DESC(interface, "whose driver is wedged");

static unsigned int seconds;
module_param(seconds, uint, 0);
MODULE_PARM_DESC(seconds, "how long the driver is wedged (0: for ever)");

static void vpctl_fault_spin(void *unused)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

/* Held for as long as it is wedged, so that it cannot go meanwhile. */
static struct net_device *vpctl_fault_wedged;

static void vpctl_fault_release(struct work_struct *work)
{
	struct napi_struct *napi;

	list_for_each_entry(napi, &vpctl_fault_wedged->napi_list, dev_list)
		napi_enable(napi);
	dev_put(vpctl_fault_wedged);
	module_put(THIS_MODULE);
}

static DECLARE_DELAYED_WORK(vpctl_fault_work, vpctl_fault_release);

static int vpctl_fault_wedge(void)
{
	struct net_device *dev = dev_get_by_name(&init_net, interface);
	struct napi_struct *napi;

	if (!dev)
		return -ENODEV;
	/* Only a device that is up has its NAPI enabled: one that is not would be waited for. */
	if (!netif_running(dev) || !netif_carrier_ok(dev)) {
		dev_put(dev);
		return -ENETDOWN;
	}
	vpctl_fault_wedged = dev;
	/* No unloading in between: nothing else enables NAPI again. */
	__module_get(THIS_MODULE);
	list_for_each_entry(napi, &dev->napi_list, dev_list)
		napi_disable(napi);
	if (seconds)
		schedule_delayed_work(&vpctl_fault_work, seconds * HZ);
	return 0;
}

static int __init vpctl_fault_init(void)
{
	if (!strcmp(how, "wedge"))
		return vpctl_fault_wedge();
	if (strcmp(how, "hang"))
		return -EINVAL;
	/* The program that loads this module reports it over the network first. */
	msleep(100);
	on_each_cpu(vpctl_fault_spin, NULL, 0);
	return 0;
}

/* By now nothing is wedged any more: see the reference that was taken. */
static void __exit vpctl_fault_exit(void)
{
	flush_delayed_work(&vpctl_fault_work);
}

module_init(vpctl_fault_init);
module_exit(vpctl_fault_exit);

MODULE_DESCRIPTION("Faults on purpose");
MODULE_AUTHOR("The vpctl authors");
MODULE_LICENSE("GPL");
