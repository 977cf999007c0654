"""What `vpctl ssh` gives to the system's ssh, as that understands it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fakes.broker import made
from vpctl.cli.ssh import ssh_argv
from vpctl.guest.ssh import Address
from vpctl.rundir import Directories


@pytest.mark.parametrize("name", ["a b", "a,b=c", "%h", "${NONE}", "it's"])
def test_ssh_finds_the_key_and_the_known_hosts_in_whatever_directory(tmp_path: Path, name: str) -> None:
    rundir = made(Directories(run=tmp_path / name, state=tmp_path / "state", cache=tmp_path))
    target = Address(vm="vm1", port=2222, user="root", identity=rundir.identity, host_key="ssh-ed25519 AAAA")
    rundir.identity.touch()
    ssh, *words = ssh_argv(target, rundir)
    done = subprocess.run([ssh, "-G", *words], cwd=rundir.run, capture_output=True, text=True, check=True)
    said = dict(line.split(" ", 1) for line in reversed(done.stdout.splitlines()) if " " in line)
    assert (rundir.run / said["identityfile"], rundir.run / said["userknownhostsfile"]) == (
        rundir.identity,
        rundir.known_hosts,
    )
    assert (said["user"], said["hostname"], said["port"]) == ("root", "127.0.0.1", "2222")


def test_a_key_of_the_users_own_is_named_whole(tmp_path: Path) -> None:
    rundir = made(Directories(run=tmp_path / "run", state=tmp_path / "state", cache=tmp_path))
    target = Address(vm="vm1", port=2222, user="debian", identity=tmp_path / "100%key", host_key=None)
    words = ssh_argv(target, rundir)
    assert f'IdentityFile="{tmp_path}/100%%key"' in words
    done = subprocess.run([words[0], "-G", *words[1:]], capture_output=True, text=True, check=True)
    assert f"identityfile {tmp_path}/100%%key\n" in done.stdout
    assert "UserKnownHostsFile=/dev/null" in words
