"""Plug and unplug on real QEMU: without any OS (machine types, pause, reset), and with a Linux guest that lets go."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.made import PAIR
from tests.vm.booting import ACCELERATOR, guest_cpu
from vpctl import image as images
from vpctl import wait
from vpctl.errors import QmpLostError
from vpctl.guest.config import links_table
from vpctl.log import Silent
from vpctl.process import running
from vpctl.qemu.argv import accel_option
from vpctl.qmp.hotplug import DevicePlan, HotplugTimes, StepError, plug, present, unplug
from vpctl.qmp.session import Session, connect
from vpctl.rundir import Directories

QEMU = os.environ.get("VPCTL_QEMU") or "qemu-system-x86_64"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvm,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]

QUICK = HotplugTimes(unplug=1.5, first_repeat=0.5, repeat=0.3, reset=10.0, connect=1.0)
"""For guests without an OS, of which is known that they do not let go."""

PORT = ["-device", "pcie-root-port,id=rp1,chassis=1,slot=1"]
Q35 = ["-M", "q35", *PORT]
PC = ["-M", "pc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vm:
    """A QEMU that runs."""

    session: Session
    pid: int

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Bytes that are resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def qemu(directories: Directories, name: str, *args: str) -> AsyncIterator[Vm]:
    """Run a QEMU for as long as the block lasts; without a kernel in `args` it has no OS."""
    directories.run.mkdir(parents=True, exist_ok=True)
    socket = directories.run / f"{name}.qmp"
    common = [
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        accel_option(ACCELERATOR),
        "-qmp",
        f"unix:{socket},server=on,wait=off",
    ]
    async with (
        running([QEMU, *common, *args], stdout=None, stderr=None) as process,
        connect(socket, vm=name, timeout=20) as session,
    ):
        yield Vm(session=session, pid=process.pid)


def stream(directories: Directories, *, server: bool, bus: str | None = "rp1") -> DevicePlan:
    """One end of a stream link; the server's end goes first."""
    address = {"type": "unix", "path": str(directories.run / "lan0")}
    place = {"bus": bus, "addr": "0"} if bus is not None else {"addr": "7"}
    return DevicePlan(
        netdev={"type": "stream", "id": "lan0n", "server": server, "addr": address},
        netdev_event=None if server else "NETDEV_STREAM_CONNECTED",
        netdev_down=server,
        device={"driver": "virtio-net-pci", "id": "lan0", "netdev": "lan0n", **place},
    )


async def test_pair_on_q35_and_pc_is_plugged_and_comes_apart_by_reset(directories: Directories) -> None:
    async with qemu(directories, "vm1", *Q35) as one, qemu(directories, "vm2", *PC) as two:
        await plug(one.session, stream(directories, server=True))
        await plug(two.session, stream(directories, server=False, bus=None))
        for vm in (one, two):
            assert await present(vm.session, "lan0")
            ids = stream(directories, server=True).ids()
            with pytest.raises(StepError) as caught:
                await unplug(vm.session, ids, times=QUICK)
            assert "reset-survivor" in (caught.value.hint or "")
            result = await unplug(vm.session, ids, times=QUICK, on_stuck="reset-survivor")
            assert result.reset
            assert result.attempts > 2
            assert not await present(vm.session, "lan0")
            assert not (await unplug(vm.session, ids, times=QUICK)).present


async def test_client_end_without_a_server_is_an_error_and_leaves_nothing(directories: Directories) -> None:
    """7.2 answers `{}` to that netdev_add, and never tries again."""
    async with qemu(directories, "vm1", "-S", *Q35) as vm:
        with pytest.raises(StepError, match="`lan0n` is not connected"):
            await plug(vm.session, stream(directories, server=False), times=QUICK)
        assert not await present(vm.session, "lan0")
        await plug(vm.session, stream(directories, server=True))  # the id is free again


async def test_paused_vm_is_named_as_the_reason_and_resets_while_paused(directories: Directories) -> None:
    async with qemu(directories, "vm1", "-S", *Q35) as vm:
        plan = stream(directories, server=True)
        await plug(vm.session, plan)
        with pytest.raises(StepError, match="already in the process of unplug") as caught:
            await unplug(vm.session, plan.ids(), times=QUICK)
        assert "cont" in (caught.value.hint or "")
        assert (await unplug(vm.session, plan.ids(), times=QUICK, on_stuck="reset-survivor")).reset
        assert (await vm.session.execute("query-status"))["running"] is False


async def test_reset_survivor_keeps_a_vm_whose_reboots_end_qemu(directories: Directories) -> None:
    async with qemu(directories, "vm1", "-action", "reboot=shutdown", *Q35) as vm:
        plan = stream(directories, server=True)
        await plug(vm.session, plan)
        assert (await unplug(vm.session, plan.ids(), times=QUICK, on_stuck="reset-survivor")).reset
        assert (await vm.session.execute("query-status"))["status"] == "running"


async def test_leftover_with_our_id_is_replaced(directories: Directories) -> None:
    # Native hotplug lets go at once as long as no guest has powered the slot: no OS is needed.
    native = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    async with qemu(directories, "vm1", "-S", *native, *Q35) as vm:
        plan = stream(directories, server=True)
        await plug(vm.session, plan)
        await plug(vm.session, plan)
        assert await present(vm.session, "lan0")


@pytest.mark.parametrize(
    ("change", "text", "hint"),
    [
        ({"bus": "pcie.0"}, "does not support hotplugging", "pcie-root-port"),
        ({"bus": "rp9"}, "Bus 'rp9' not found", "no such port"),
        ({"netdev": "other"}, "can't find value 'other'", "left out"),
        ({"driver": "no-such-device"}, "is not a valid device model name", "doctor"),
        ({"id": "second"}, "slot 0 function 0 not available", "port is taken"),
    ],
)
async def test_refusals_of_this_qemu_are_understood(
    directories: Directories, change: dict[str, str], text: str, hint: str
) -> None:
    async with qemu(directories, "vm1", "-S", *Q35) as vm:
        if "id" in change:
            await plug(vm.session, DevicePlan(device={"driver": "virtio-rng-pci", "id": "first", "bus": "rp1"}))
        plan = stream(directories, server=True)
        with pytest.raises(StepError, match=text) as caught:
            await plug(vm.session, replace(plan, device={**plan.device, **change}))
        assert hint in (caught.value.hint or "")
        assert "lan0n" not in await vm.session.execute("human-monitor-command", {"command-line": "info network"})


@pytest.mark.long
async def test_memory_object_of_the_same_id_is_added_again_without_an_abort(directories: Directories) -> None:
    async with qemu(directories, "vm1", "-S", *Q35) as vm:
        shared = DevicePlan(
            objects=({"qom-type": "memory-backend-memfd", "id": "m1", "size": 65536, "share": True},),
            chardev={"id": "c1", "backend": {"type": "ringbuf", "data": {}}},
            device={"driver": "ivshmem-plain", "id": "s1", "memdev": "m1", "bus": "rp1", "addr": "0"},
        )
        before = vm.open_files()
        for _ in range(3):
            await plug(vm.session, shared)
            await unplug(vm.session, shared.ids(), times=QUICK, on_stuck="reset-survivor")

        async def freed() -> bool | None:  # the last memory goes some 50 ms after its object
            return True if vm.open_files() <= before else None

        await wait.until(freed, timeout=5, what="QEMU's descriptors back to where they were")


async def test_descriptor_reaches_qemu(directories: Directories) -> None:
    async with qemu(directories, "vm1", "-S", *Q35) as vm:
        before = vm.open_files()
        for name in ("a", "b"):
            await vm.session.send_fd(name, 0)
        assert vm.open_files() == before + 2
        await vm.session.execute("closefd", {"fdname": "a"})
        assert vm.open_files() == before + 1


async def test_unplug_ends_at_once_when_qemu_does(directories: Directories) -> None:
    async with qemu(directories, "vm1", *Q35) as vm:
        plan = stream(directories, server=True)
        await plug(vm.session, plan)
        with vm.session.subscribe() as events:
            await vm.session.execute("quit")
            assert "SHUTDOWN" in [event["event"] async for event in events]
        with pytest.raises(QmpLostError):
            await unplug(vm.session, plan.ids())


# With a Linux guest


async def boot_args(directories: Directories) -> list[str]:
    """Return the arguments that boot the guest image to where its agent beats."""
    found = images.installed(directories.images)
    image = found[0] if found else await images.ensure(cache=directories.images, log=Silent())
    assert image.initrd is not None
    return [
        *["-cpu", guest_cpu(), "-smp", "1,maxcpus=2", "-m", "256M"],
        *["-kernel", str(image.kernel), "-initrd", str(image.initrd)],
        *["-append", f"{image.kernel_args} console=ttyS0 panic=-1 quiet"],
        *["-drive", f"if=none,id=root,format=raw,readonly=on,file={image.disk}"],
        *["-device", "virtio-blk-pci,drive=root,serial=vpctl-root"],
        *["-device", "virtio-serial-pci", "-chardev", "ringbuf,id=hb,size=65536"],
        *["-device", "virtserialport,chardev=hb,name=org.vpctl.heartbeat"],
        *["-serial", f"file:{directories.run / 'serial.log'}"],
    ]


async def wait_for_heartbeat(vm: Vm) -> None:
    """Wait until the guest's agent beats: the OS is up, and so is its ACPI."""

    async def beat() -> str | None:
        text: str = await vm.session.execute("ringbuf-read", {"device": "hb", "size": 4096})
        return text or None

    await wait.until(beat, timeout=60, what=f"{vm.session.vm}: heartbeat", every=0.2)


async def test_guest_that_sends_before_the_socket_listens_does_not_end_qemu(directories: Directories) -> None:
    """A socket that cannot be bound stays for ever in the state that one is in until its thread has bound it."""
    links = directories.run / "links"
    links.parent.mkdir(parents=True, exist_ok=True)
    links.write_text(links_table(PAIR, "vm1"))
    given = await boot_args(directories)
    async with qemu(directories, "vm1", *Q35, *given, "-fw_cfg", f"name=opt/vpctl/links,file={links}") as vm:
        await wait_for_heartbeat(vm)
        plan = stream(directories, server=True)
        nowhere = {"type": "unix", "path": str(directories.run / "nowhere" / "lan0")}
        end = PAIR.link("lan0").end_of("vm1")
        await plug(
            vm.session,
            replace(plan, netdev={**(plan.netdev or {}), "addr": nowhere}, device={**plan.device, "mac": end.mac}),
        )

        async def sent() -> int | None:
            queue = {"path": "/machine/peripheral/lan0/virtio-backend", "queue": 1}
            status = await vm.session.execute("x-query-virtio-queue-status", queue)
            return status["used-idx"] or None

        # The agent addresses the interface and announces it.
        await wait.until(sent, timeout=30, what="the guest's first packet", every=0.1)
        assert (await vm.session.execute("query-status"))["status"] == "running"


@pytest.mark.long
async def test_linux_guest_lets_go_ten_times_and_qemu_does_not_grow(directories: Directories) -> None:
    async with qemu(directories, "vm1", *Q35, *await boot_args(directories)) as vm:
        await wait_for_heartbeat(vm)
        plan = stream(directories, server=True)

        async def cycle() -> float:
            await plug(vm.session, plan)
            result = await unplug(vm.session, plan.ids())
            assert result.present
            assert not result.reset
            return result.seconds

        warm_up = [await cycle() for _ in range(2)]
        files, memory = vm.open_files(), vm.memory()
        seconds = [await cycle() for _ in range(10)]
        print(f"unplug: {[round(s, 2) for s in warm_up + seconds]} s, growth {vm.memory() - memory} bytes")
        assert vm.open_files() == files
        # The guest touches new pages and TCG translates new code: some growth is no leak.
        assert vm.memory() - memory < 32 << 20


@pytest.mark.long
async def test_request_before_the_guests_acpi_is_up_is_repeated_until_it_works(directories: Directories) -> None:
    async with qemu(directories, "vm1", *Q35, *await boot_args(directories)) as vm:
        plan = stream(directories, server=True)
        await plug(vm.session, plan)
        result = await unplug(vm.session, plan.ids(), times=HotplugTimes(unplug=60))
        assert result.present
        assert not result.reset
        assert not await present(vm.session, "lan0")
