"""Boot to ssh against the floor: the same kernel with an init that only says it is there and halts.

    python benchmarks/boot_floor.py [--rounds 7] [--image DIRECTORY] [--accelerator tcg|kvm]

Both guests get the same machine. One round boots each once, in alternating order, so that what else the host does
falls on both alike; the medians, the spread and the ratio are printed, and with `--json` every single value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpctl.image import GuestImage, ensure, installed
from vpctl.log import Log
from vpctl.process import find_tool, running
from vpctl.rundir import Directories
from vpctl.wait import until

FLOOR_INIT = """
#include <sys/reboot.h>
#include <unistd.h>
int main(void)
{
	if (write(1, "floor\\n", 6) == 6)
		reboot(RB_POWER_OFF);
	return 1;
}
"""
BOOT_TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """One boot: from the spawn of QEMU to each sign of life, in milliseconds."""

    userspace_ms: float
    end_ms: float


def machine_args(image: GuestImage, initrd: Path, accelerator: str) -> list[str]:
    """Return the machine that both kinds of guest get."""
    cpu = "host" if accelerator == "kvm" else "max,-erms,-fsrm"
    return [
        os.environ.get("VPCTL_QEMU") or find_tool("qemu-system-x86_64", package="qemu-system-x86"),
        "-nodefaults", "-no-user-config", "-display", "none", "-accel", accelerator, "-M", "q35", "-cpu", cpu,
        "-smp", "1,maxcpus=2", "-m", "256M",
        "-kernel", str(image.kernel), "-initrd", str(initrd), "-append", image.kernel_args,
        "-serial", "stdio", "-device", "pvpanic", "-device", "virtio-serial-pci",
        "-drive", f"if=none,id=root,format=raw,readonly=on,file={image.disk}",
        "-device", "virtio-blk-pci,drive=root,serial=vpctl-root",
    ]  # fmt: skip


async def boot_floor(image: GuestImage, initrd: Path, accelerator: str) -> Boot:
    """Boot to the floor's only line; the guest then powers itself off."""
    started = time.monotonic()
    argv = [*machine_args(image, initrd, accelerator), *network_args(free_port())]
    async with asyncio.timeout(BOOT_TIMEOUT), running(argv) as process:
        assert process.stdout is not None
        await read_line(process.stdout, "floor")
        end = elapsed_ms(started)
    return Boot(userspace_ms=end, end_ms=end)


async def boot_image(image: GuestImage, accelerator: str) -> Boot:
    """Boot to the first byte of ssh's banner."""
    assert image.initrd is not None
    port = free_port()
    started = time.monotonic()
    argv = [*machine_args(image, image.initrd, accelerator), *network_args(port)]
    async with asyncio.timeout(BOOT_TIMEOUT), running(argv) as process:
        assert process.stdout is not None
        await read_line(process.stdout, "vpctl: userspace")
        userspace = elapsed_ms(started)
        # A connection made before the guest listens waits for slirp's next SYN, seconds later.
        await read_line(process.stdout, "vpctl: ssh")
        await until(lambda: read_banner(port), timeout=BOOT_TIMEOUT, every=0.01, what="ssh banner")
        end = elapsed_ms(started)
    return Boot(userspace_ms=userspace, end_ms=end)


def network_args(port: int) -> list[str]:
    return [
        "-netdev", f"user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=mgmt,mac=52:56:00:00:00:01,romfile=",
    ]  # fmt: skip


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def read_banner(port: int) -> bytes | None:
    """Return the banner; None while there is none. QEMU takes the connection long before the guest does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        return await reader.readline() or None
    except OSError:
        return None
    finally:
        writer.close()


async def read_line(stream: asyncio.StreamReader, wanted: str) -> None:
    seen = []
    async for raw in stream:
        line = raw.decode(errors="replace").strip()
        seen.append(line)
        if line.endswith(wanted):
            return
    raise SystemExit(f"the guest ended without `{wanted}`; it said:\n" + "\n".join(seen[-10:]))


def elapsed_ms(started: float) -> float:
    return (time.monotonic() - started) * 1000


def make_floor_initrd(directory: Path) -> Path:
    """Compile the floor's init and pack it (a static program and /dev/console, which the kernel itself brings)."""
    source, program = directory / "init.c", directory / "init"
    source.write_text(FLOOR_INIT.lstrip())
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", program, source], check=True)
    initrd = directory / "floor.img"
    initrd.write_bytes(cpio_entry("init", 0o100755, program.read_bytes()) + cpio_entry("TRAILER!!!", 0, b""))
    return initrd


def cpio_entry(name: str, mode: int, data: bytes) -> bytes:
    """Return one entry of a `newc` archive."""
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


async def measure(image: GuestImage, rounds: int, accelerator: str) -> tuple[list[Boot], list[Boot]]:
    floors: list[Boot] = []
    boots: list[Boot] = []
    with tempfile.TemporaryDirectory() as directory:
        initrd = make_floor_initrd(Path(directory))
        for number in range(rounds + 1):
            for is_floor in (True, False) if number % 2 else (False, True):
                boot = boot_floor(image, initrd, accelerator) if is_floor else boot_image(image, accelerator)
                result = await boot
                if number:  # the first round fills the page cache
                    (floors if is_floor else boots).append(result)
    return floors, boots


def summary(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):6.0f} ms   (from {min(values):.0f} to {max(values):.0f})"


async def main() -> None:
    parser = argparse.ArgumentParser(description="boot to ssh against the floor")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image", type=Path, help="directory of a built image (default: today's)")
    parser.add_argument("--accelerator", default="tcg")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cache = Directories.from_environment().images
    if options.image:
        image = next(image for image in installed(options.image.parent) if image.directory == options.image)
    else:
        image = await ensure(cache=cache, log=Log())
    floors, boots = await measure(image, options.rounds, options.accelerator)
    floor_ms, boot_ms = [boot.end_ms for boot in floors], [boot.end_ms for boot in boots]
    userspace_ms = [boot.userspace_ms for boot in boots]
    ratio = statistics.median(boot_ms) / statistics.median(floor_ms)
    if options.json:
        json.dump({"floor_ms": floor_ms, "userspace_ms": userspace_ms, "ssh_ms": boot_ms, "ratio": ratio}, sys.stdout)
        return
    print(f"floor:       {summary(floor_ms)}")
    print(f"userspace:   {summary(userspace_ms)}")
    print(f"ssh banner:  {summary(boot_ms)}")
    print(f"ratio:       {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
