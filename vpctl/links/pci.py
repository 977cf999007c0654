"""Where a link's device goes in a VM: its root port, and room for its memory in the PCI hole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpctl.topology.model import LinkSpec, VmSpec

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class PciPlace:
    """Where a link's end goes in its VM: the bus that takes the hot-added device, and the slot where it has to be."""

    bus: str
    addr: str | None = None
    number: int = 1
    """Which of the VM's links it is, from 1; the same for every generation."""
    of: int = 1
    """How many links the VM has."""
    qemu: tuple[int, int, int] = (7, 2, 0)
    """The version of the VM's QEMU."""
    accelerator: str = "tcg"

    def as_arguments(self) -> dict[str, str]:
        """Return what `device_add` is told."""
        return {"bus": self.bus} | ({"addr": self.addr} if self.addr is not None else {})


def power_of_two(size: int) -> int:
    """Return the next power of two, or the size itself if it is one."""
    return 1 << (size - 1).bit_length()


def place_of(
    link: LinkSpec, vm: VmSpec, *, number: int, of: int, qemu: tuple[int, int, int], accelerator: str
) -> PciPlace:
    """Return the bus of a link's end: its own root port on q35, whose `pcie.0` takes no hotplug; `pci.0` on pc.

    A guest looks at slot 0 of a root port only; without the address QEMU 7.2 puts a device into slot 1 of a port
    that is still taken, and answers `{}`.
    """
    bus, addr = (f"port-{link.name}", "0") if vm.machine == "q35" else ("pci.0", None)
    return PciPlace(bus=bus, addr=addr, number=number, of=of, qemu=qemu, accelerator=accelerator)


def root_port_args(link: LinkSpec, vm: VmSpec, *, number: int, window: int = 0) -> list[str]:
    """Return the root port for a link's end on q35, nothing on pc.

    io-reserve=0: a modern virtio device has no I/O BAR, and a 4 KiB window for each of two dozen ports would
    exhaust the I/O space, which stops SeaBIOS. `window` is the size of the device's memory, if it has one.
    """
    if vm.machine != "q35":
        return []
    reserve = f",pref64-reserve={reserve_for(window) // GIB}G" if window else ""
    options = f"pcie-root-port,id=port-{link.name},bus=pcie.0,chassis={number},slot={number},io-reserve=0{reserve}"
    return ["-device", options]


def reserve_for(window: int) -> int:
    """Return what a root port has to reserve for a device's memory: twice its size, and at least 1 GiB.

    SeaBIOS puts less than that below 4 GiB where it fits, and Linux maps what lies there uncached. Without a
    reserve it has no room for the device at all; with its bare size, alignment leaves none (4 GiB and more).
    """
    return max(GIB, 2 * window)


def hole_args(vm: VmSpec, windows: Sequence[int]) -> list[str]:
    """Return what makes a machine's 64-bit PCI hole large enough for its devices' memories, if it is not.

    It has 32 GiB on q35, and on pc 2 GiB, in whole.
    """
    needed = sum(reserve_for(window) if vm.machine == "q35" else window for window in windows if window)
    driver, default = ("q35-pcihost", 32 * GIB) if vm.machine == "q35" else ("i440FX-pcihost", 2 * GIB)
    if 2 * needed <= default:
        return []
    return ["-global", f"{driver}.pci-hole64-size={(1 << (2 * needed - 1).bit_length()) // GIB}G"]
