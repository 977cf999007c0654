"""What a guest is told at boot: names, keys, its links; and the keys themselves."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from tests.fakes.broker import made
from tests.fakes.guest import dropbear_strings
from tests.made import made_link, made_topology
from vpctl.guest.config import ITEMS, config_items, hosts_file, links_table, write_config
from vpctl.guest.keys import run_keys
from vpctl.rundir import OWNER, Directories, RunDir
from vpctl.topology.model import Topology, VmSpec

MAKE_KEYS = """
import sys
from vpctl.guest.keys import run_keys
from vpctl.rundir import RunDir
print(run_keys(RunDir.from_words(sys.argv[1:])))
"""

FW_CFG_NAME_MAX = 55
"""Bytes in an fw_cfg item's name, without the final NUL: FW_CFG_MAX_FILE_PATH."""


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


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


def test_the_host_key_is_in_dropbears_form_and_matches_what_is_pinned(rundir: RunDir) -> None:
    keys = run_keys(rundir)
    kind, secret = dropbear_strings(keys.host_key_dropbear)
    assert kind == b"ssh-ed25519"
    assert len(secret) == 64
    public = Ed25519PrivateKey.from_private_bytes(secret[:32]).public_key()
    assert public.public_bytes(Encoding.Raw, PublicFormat.Raw) == secret[32:]
    assert public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == keys.host_public
    name, encoded = keys.host_public.split()
    assert dropbear_strings(base64.b64decode(encoded)) == [name.encode(), secret[32:]]
    assert rundir.known_hosts.read_text() == f"* {keys.host_public}\n"


def test_the_clients_private_key_is_the_public_ones_and_nobody_elses_to_read(rundir: RunDir) -> None:
    keys = run_keys(rundir)
    private = load_ssh_private_key(rundir.identity.read_bytes(), password=None)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert keys.public == f"{public} vpctl-pair"
    assert rundir.identity.stat().st_mode & 0o777 == 0o600


def test_keys_stay_for_the_run_and_are_made_again_if_the_making_was_cut_short(
    rundir: RunDir, directories: Directories
) -> None:
    first = run_keys(rundir)
    assert run_keys(rundir) == first
    rundir.known_hosts.unlink()  # written last
    rundir.identity.unlink()
    assert run_keys(rundir) == first
    assert rundir.identity.exists()
    assert run_keys(made(directories, "other")).host_public != first.host_public


def test_processes_that_make_the_keys_at_once_make_the_same_and_wait_for_none(rundir: RunDir) -> None:
    argv = [sys.executable, "-c", MAKE_KEYS, *rundir.as_words()]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert said == {f"{run_keys(rundir)}\n".encode()}
    load_ssh_private_key(rundir.identity.read_bytes(), None)
    names = {"identity", "identity.pub", "known_hosts", "host_key", "seeds", OWNER}
    assert {path.name for path in rundir.run.iterdir()} == names
    assert (rundir.run / "seeds").stat().st_mode & 0o777 == 0o600
