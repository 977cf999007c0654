"""The devices that links plug, and the names of devices and of the memory that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vpctl.broker.memfd import placeholder
from vpctl.links.kind import SharedEnd
from vpctl.links.pci import PciPlace
from vpctl.qmp.device import DevicePlan
from vpctl.topology.model import Endpoint, VmSpec


def device_id(link: str, generation: int) -> str:
    """Return the id of a link's device: fresh per generation, since an id stays taken until DEVICE_DELETED."""
    return f"{link}.g{generation}"


def device_generations(link: str, ids: Iterable[str]) -> list[int]:
    """Return the generations of a link's devices among these ids, in order."""
    prefix = device_id(link, 0)[:-1]
    numbers = [name.removeprefix(prefix) for name in ids if name.startswith(prefix)]
    return sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())


def virtio_net(end: Endpoint, name: str, place: PciPlace) -> dict[str, Any]:
    """Return the `device_add` of a virtio NIC named `name`, whose netdev is called `name`.net.

    romfile: nobody boots from a link, and a ROM would cost each plug its load.
    """
    return {
        "driver": "virtio-net-pci",
        "id": name,
        "netdev": f"{name}.net",
        "mac": end.mac,
        "romfile": "",
        **place.as_arguments(),
    }


def ivshmem_doorbell(end: SharedEnd, name: str, place: PciPlace) -> DevicePlan:
    """Return an ivshmem-doorbell device named `name`, which asks the broker for its memory and interrupts.

    A fresh chardev for each device: QEMU hangs in `device_add` on one that an earlier device has used.
    """
    address = {"type": "unix", "data": {"path": end.socket}}
    return DevicePlan(
        device={
            "driver": "ivshmem-doorbell",
            "id": name,
            "chardev": f"{name}.server",
            "vectors": end.vectors,
            **place.as_arguments(),
        },
        chardev={
            "id": f"{name}.server",
            "backend": {"type": "socket", "data": {"addr": address, "server": False}},
        },
        sockets=(end.socket,),
    )


def ram_memory(vm: str, generation: int) -> str:
    """Return the name of the memory that is a VM's RAM in one of its lives, where a peer maps it."""
    return f"ram/{vm}.g{generation}"


def control_memory(vm: str) -> str:
    """Return the name of a VM's control page."""
    return f"control/{vm}"


def control_page_args(vm: VmSpec, size: int) -> list[str]:
    """Return the device by which a guest sees its control page; there from the start, whatever is plugged later."""
    name = "vpctl-control"
    path = placeholder(control_memory(vm.name))
    return [
        *("-object", f"memory-backend-file,id={name},mem-path={path},size={size},share=on"),
        *("-device", f"ivshmem-plain,id={name}-page,memdev={name}"),
    ]
