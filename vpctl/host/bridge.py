"""The part of a link that is neither in a guest nor in QEMU: a bridge on the host with a tap for each end.

It is made before the first plug and looked after at every repair, and `down` removes whatever has this topology's
prefix in its name: that needs no record of what was made, so nobody's death in between leaves anything behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from vpctl.errors import HostError
from vpctl.links.kind import HostNetwork
from vpctl.process import end, find_by_argument, find_tool, run
from vpctl.rundir import RunDir, write_atomic

IP_SECONDS = 20.0
"""For any call of `ip`, which takes some 10 ms; unregistering an interface may wait for the kernel's other users."""

CAP_NET_ADMIN = 12

UNPRIVILEGED = "run vpctl as root, for instance by sudo, or use a kind that needs no privilege: `stream`, `dgram`"


def creation(network: HostNetwork, *, present: Collection[str], uid: int) -> list[str]:
    """Return what `ip` is told to make a link's bridge and taps, or to put right what is there of them. Pure.

    The host is silent on it: no spanning tree, no multicast queries, no IPv6 address that would announce itself, and
    no answer to ARP, which Linux gives on any interface for any address of the host.
    """
    interfaces = (network.bridge, *network.taps)
    lines = [f"link add name {network.bridge} type bridge"] if network.bridge not in present else []
    lines += [f"tuntap add dev {tap} mode tap user {uid}" for tap in network.taps if tap not in present]
    lines.append(f"link set dev {network.bridge} type bridge stp_state 0 mcast_snooping 0")
    lines += [f"link set dev {tap} master {network.bridge}" for tap in network.taps]
    # The bridge's MTU last, as each port that joins may change it; up only after addrgenmode, which is read then.
    settings = f"mtu {network.mtu} addrgenmode none arp off alias {network.label}"
    lines += [f"link set dev {name} {settings}" for name in reversed(interfaces)]
    return lines + [f"link set dev {name} up" for name in interfaces]


async def create(network: HostNetwork, file: Path) -> None:
    """See that a link's bridge and taps are there and as they should be; idempotent. HostError if they cannot be.

    The commands go into `file`, of the run directory: `remove` knows by it an `ip` whose supervisor was killed.
    """
    argv = [find_tool("ip", package="iproute2"), "-batch", str(file)]
    lines = creation(network, present=interfaces(), uid=os.getuid())
    write_atomic(file, "".join(f"{line}\n" for line in lines))
    status, output = await run(argv, timeout=IP_SECONDS, check=False)
    if status != 0:
        raise HostError(f"cannot make the bridge of {network.label}: {_cause(output, lines)}", hint=UNPRIVILEGED)


def _cause(output: str, lines: Sequence[str]) -> str:
    """Return which line of a batch failed, and why: `ip` says why first, then `Command failed FILE:LINE`."""
    said = output.strip().splitlines() or ["no message"]
    failed = re.search(r":(\d+)$", said[-1])
    return f"`ip {lines[int(failed[1]) - 1]}`: {said[0]}" if failed is not None else said[-1]


async def remove(rundir: RunDir) -> None:
    """Remove every interface of a topology, whoever made it; idempotent. HostError if one stays.

    Its supervisor and QEMUs have to be gone.
    """
    if any(rundir.run.glob("*.ip")):
        for orphan in find_by_argument(f"-batch\0{rundir.run}/"):
            await end(orphan, grace=1.0)
    ours = [name for name in interfaces() if name.startswith(rundir.interface_prefix)]
    if not ours:
        return
    ip = find_tool("ip", package="iproute2")
    said = [await run([ip, "link", "delete", "dev", name], timeout=IP_SECONDS, check=False) for name in ours]
    if left := [name for name in interfaces() if name.startswith(rundir.interface_prefix)]:
        why = next((output.strip() for _, output in said if output.strip()), "no message")
        hint = f"for i in {' '.join(left)}; do sudo ip link delete dev $i; done"
        raise HostError(f"cannot remove {', '.join(left)}: {why}", hint=hint)


def interfaces() -> list[str]:
    """Return the names of the host's network interfaces: of this process's network namespace."""
    lines = Path("/proc/self/net/dev").read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


def require(networks: Sequence[HostNetwork]) -> None:
    """Raise HostError, with a remedy, unless these could be made here; tries nothing."""
    if networks:
        require_devices(sorted({device for network in networks for device in network.devices}))


def require_devices(devices: Sequence[str]) -> None:
    find_tool("ip", package="iproute2")
    check_privilege(Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"), uid=os.geteuid())
    for device in devices:
        check_device(device)


def check_privilege(status: str, *, uid: int) -> None:
    """Raise HostError unless the `ip` that a process of this /proc/PID/status starts will have CAP_NET_ADMIN. Pure.

    A program that root starts has what root has, any other user's only what is ambient (capabilities(7)).
    """
    kept = "CapEff" if uid == 0 else "CapAmb"
    found = re.search(rf"^{kept}:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if found is None or not int(found[1], 16) >> CAP_NET_ADMIN & 1:
        raise HostError("a bridge on the host needs the capability CAP_NET_ADMIN", hint=UNPRIVILEGED)


def check_device(path: str) -> None:
    """Raise HostError unless this user may read and write a character device."""
    if not os.access(path, os.F_OK):
        raise HostError(f"there is no {path}", hint=f"sudo modprobe {Path(path).name.replace('-', '_')}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise HostError(f"{path} is not open to this user", hint=f"ls -l {path}; sudo chmod 666 {path}")
