"""What a guest is told at boot, by fw_cfg files; the guest image reads them, own images may ignore them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vpctl.guest.keys import RunKeys
from vpctl.rundir import RunDir, private_directory, write_atomic
from vpctl.topology.model import Topology

SYSTEMD_KEY = "opt/io.systemd.credentials/ssh.authorized_keys.root"
"""systemd 252 and newer installs this credential for root: own images need no preparation (systemd-tmpfiles)."""


ITEMS = (
    "opt/vpctl/hostname",
    "opt/vpctl/hosts",
    "opt/vpctl/authorized_keys",
    "opt/vpctl/host_key",
    "opt/vpctl/links",
    SYSTEMD_KEY,
)


def links_table(topology: Topology, vm: str) -> str:
    """Return a line for each link of a VM, plugged or not: `MAC NAME ADDRESS/PREFIX MTU PEER`."""
    lines = []
    for link in topology.links_of(vm):
        end = link.end_of(vm)
        lines.append(f"{end.mac} {link.name} {end.address} {link.mtu} {link.peer_of(vm).address.ip}\n")
    return "".join(lines)


def hosts_file(topology: Topology, vm: str) -> str:
    """Return a VM's /etc/hosts: peers by name, at their address on the first link to them."""
    peers = {link.peer_of(vm).vm: link.peer_of(vm).address.ip for link in reversed(topology.links_of(vm))}
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {vm}", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for name, address in sorted(peers.items())]
    return "\n".join(lines) + "\n"


def config_items(topology: Topology, vm: str, keys: RunKeys) -> dict[str, bytes]:
    """Return fw_cfg item names and contents."""
    authorized = keys.public.encode() + b"\n"
    contents = (
        vm.encode(),
        hosts_file(topology, vm).encode(),
        authorized,
        keys.host_key_dropbear,
        links_table(topology, vm).encode(),
        authorized,
    )
    return dict(zip(ITEMS, contents, strict=True))


def config_paths(rundir: RunDir, vm: str) -> Mapping[str, Path]:
    """Return the file of each fw_cfg item of a VM."""
    return {item: rundir.guest_config(vm) / item.replace("/", "_") for item in ITEMS}


def write_config(rundir: RunDir, topology: Topology, vm: str, keys: RunKeys) -> Mapping[str, Path]:
    """Write a VM's fw_cfg files (0600, in the run directory); return item names and paths."""
    private_directory(rundir.guest_config(vm))
    paths = config_paths(rundir, vm)
    for item, content in config_items(topology, vm, keys).items():
        write_atomic(paths[item], content)
    return paths
