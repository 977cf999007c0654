"""Devices of every part."""

from __future__ import annotations

from vpctl.qmp.hotplug import DevicePlan

FULL = DevicePlan(
    objects=({"qom-type": "memory-backend-memfd", "id": "m1", "size": 65536},),
    chardev={"id": "c1", "backend": {"type": "null", "data": {}}},
    netdev={"type": "vhost-user", "id": "n1", "chardev": "c1"},
    device={"driver": "virtio-net-pci", "id": "d1", "netdev": "n1", "bus": "rp1"},
)

ADDS = ["object-add", "chardev-add", "netdev_add", "human-monitor-command", "device_add"]

ASKS = "human-monitor-command"  # is the memory of an earlier object still there?

REMOVES = ["device_del", "netdev_del", "chardev-remove", "object-del"]
