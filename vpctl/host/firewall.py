"""The host's firewall: whether it sees packets on a link's bridge, and what the doctor says of bridges and of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vpctl.errors import HostError
from vpctl.host.bridge import IP_SECONDS, require_devices
from vpctl.links.kind import HostNetwork
from vpctl.process import find_tool, run
from vpctl.qemu.host import Finding
from vpctl.rundir import INTERFACE_PREFIX

NAME = "host network"

BRIDGE_CALLS = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""There while br_netfilter is loaded, as Docker wants it; 1: bridged IPv4 passes the host's FORWARD chain."""

FIREWALL = f"iptables -I FORWARD -i {INTERFACE_PREFIX}+ -o {INTERFACE_PREFIX}+ -j ACCEPT"


def firewall_sees_bridges() -> bool:
    """Whether bridged IPv4 passes the host's firewall; no bridge can be left out of that by a setting of its own."""
    return BRIDGE_CALLS.exists() and BRIDGE_CALLS.read_text(encoding="utf-8").strip() == "1"


def suspected(reason: str) -> dict[str, str]:
    """Return `reason` and `hint` of a link without packets on a host whose firewall sees bridged packets."""
    return {
        "reason": f"{reason}; the host's firewall sees bridged packets and may have dropped them",
        "hint": f"{FIREWALL}; vpctl doctor FILE says more",
    }


async def examine(networks: Sequence[Sequence[HostNetwork]]) -> list[Finding]:
    """Say whether these could be made here, by topology, and whether a firewall is in the way.

    Without topologies what lacks is a warning; with topologies that need nothing of the kind there is nothing to say.
    """
    devices = sorted({device for each in networks for network in each for device in network.devices})
    if networks and not devices:
        return []
    try:
        require_devices(devices or ["/dev/net/tun"])
    except HostError as error:
        ok: Literal["warning", "failed"] = "failed" if devices else "warning"
        return [Finding(name=NAME, ok=ok, message=error.message, remedy=error.hint)]
    return [await _examine_firewall()]


async def _examine_firewall() -> Finding:
    able = "bridges and taps can be made"
    if not firewall_sees_bridges():
        return Finding(name=NAME, ok="ok", message=able)
    verdict = await _forwarding()
    seen = f"{able}, but the host's firewall sees their packets (br_netfilter)"
    if verdict == "ACCEPT":
        return Finding(name=NAME, ok="ok", message=f"{seen}; it forwards them")
    doubt = "its FORWARD policy is DROP" if verdict == "DROP" else "whether it drops them is not known"
    return Finding(name=NAME, ok="warning", message=f"{seen}; {doubt}", remedy=FIREWALL)


async def _forwarding() -> str | None:
    try:
        _, output = await run([find_tool("iptables"), "-S", "FORWARD"], timeout=IP_SECONDS, check=False)
    except (HostError, TimeoutError):
        return None
    return forwarding(output)


def forwarding(chain: str) -> str | None:
    """Return what a FORWARD chain, as `iptables -S` lists it, does to our packets: ACCEPT or DROP; None: it is none.

    Pure. The policy, unless our own rule is there; other rules are not looked into.
    """
    if f"-A {FIREWALL.partition(' -I ')[2]}" in chain.splitlines():
        return "ACCEPT"
    policy = re.search(r"^-P FORWARD (\w+)$", chain, re.MULTILINE)
    return policy[1] if policy is not None else None
