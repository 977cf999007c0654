"""What a guest is told at boot: names, keys, its links; and the keys themselves."""

from __future__ import annotations

from tests.made import made_link, made_topology
from vpctl.guest.config import ITEMS, config_items, hosts_file, links_table, write_config
from vpctl.guest.keys import run_keys
from vpctl.rundir import RunDir
from vpctl.topology.model import Topology, VmSpec

FW_CFG_NAME_MAX = 55
"""Bytes in an fw_cfg item's name, without the final NUL: FW_CFG_MAX_FILE_PATH."""


def test_a_guest_learns_of_each_of_its_links_and_of_no_other() -> None:
    topology = made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm2", "vm3"), ("lan2", "vm3", "vm1"))
    lan0, _, lan2 = topology.links
    assert links_table(topology, "vm1") == (
        f"{lan0.end_of('vm1').mac} lan0 10.77.0.1/30 1500 10.77.0.2\n"
        f"{lan2.end_of('vm1').mac} lan2 10.77.2.2/30 1500 10.77.2.1\n"
    )
    assert [line.split()[1] for line in links_table(topology, "vm2").splitlines()] == ["lan0", "lan1"]
    assert links_table(made_topology(vms=["lonely"]), "lonely") == ""


def test_the_table_has_a_links_own_mtu() -> None:
    link = made_link("lan0", "vm1", "vm2", mtu=9000)
    topology = Topology(name="t", vms=(VmSpec(name="vm1"), VmSpec(name="vm2")), links=(link,))
    assert links_table(topology, "vm2").endswith(" 10.77.0.2/30 9000 10.77.0.1\n")


def test_a_guest_knows_its_peers_by_name_at_their_address_on_the_first_link() -> None:
    topology = made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"), ("lan2", "vm3", "vm1"))
    lines = hosts_file(topology, "vm1").splitlines()
    assert "127.0.1.1 vm1" in lines
    assert lines[-2:] == ["10.77.0.2 vm2", "10.77.2.1 vm3"]
    assert "vm2" not in hosts_file(topology, "vm3")


def test_the_items_are_written_where_only_we_can_read_them(rundir: RunDir) -> None:
    topology = made_topology(("lan0", "vm1", "vm2"))
    keys = run_keys(rundir)
    paths = write_config(rundir, topology, "vm1", keys)
    assert tuple(paths) == ITEMS
    assert {item: path.read_bytes() for item, path in paths.items()} == config_items(topology, "vm1", keys)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths.values())
    assert rundir.guest_config("vm1").stat().st_mode & 0o777 == 0o700
    assert paths["opt/vpctl/hostname"].read_text() == "vm1"
    assert paths["opt/vpctl/authorized_keys"].read_text() == rundir.identity.with_suffix(".pub").read_text()


def test_qemu_takes_the_items_names() -> None:
    assert all(item.startswith("opt/") and len(item) <= FW_CFG_NAME_MAX for item in ITEMS)
