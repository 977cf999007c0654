"""The ways into a guest of an image of one's own, of which nothing may be assumed."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from tests.fakes.broker import made
from tests.fakes.guest import guest_running
from tests.made import made_run, made_topology
from vpctl.errors import ReadyTimeoutError
from vpctl.journal import Journal
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.vm.connections import Connections
from vpctl.topology.model import ImageSpec, VmSpec


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


def connections(rundir: RunDir, *, own: bool = True) -> Connections:
    vm = VmSpec(name="vm1", image=ImageSpec(name=None, kernel="/k") if own else ImageSpec())
    run = made_run(made_topology(vms=[vm]))
    return Connections(run.machine("vm1"), run, rundir, Journal(rundir.journal))


async def silent() -> bool | None:
    return None


async def test_a_guest_that_is_silent_on_its_console_is_heard_by_ssh(rundir: RunDir) -> None:
    async with guest_running(rundir) as address:
        into = connections(rundir)
        into.ssh_port = address.port
        await into.guest_speaks(30, serial=silent)


async def test_a_guest_that_speaks_on_its_console_needs_no_ssh(rundir: RunDir) -> None:
    async def speaks() -> bool | None:
        return True

    await connections(rundir).guest_speaks(30, serial=speaks)


@pytest.mark.parametrize("own", [True, False])
async def test_a_guest_of_which_nothing_is_heard_is_given_up_on(rundir: RunDir, own: bool) -> None:
    into = connections(rundir, own=own)
    with socket.socket() as listener:  # takes connections and says nothing, as QEMU does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        into.ssh_port = listener.getsockname()[1]
        with pytest.raises(ReadyTimeoutError, match="first serial output") as caught:
            await into.guest_speaks(0.5, serial=silent)
    assert ("by ssh" in caught.value.message) == own
    assert ("console=ttyS0" in (caught.value.hint or "")) == own


async def test_the_built_image_has_to_speak_on_its_console(rundir: RunDir) -> None:
    """It always does, and before its ssh: who answers at its port is somebody else."""
    async with guest_running(rundir) as address:
        into = connections(rundir, own=False)
        into.ssh_port = address.port
        with pytest.raises(ReadyTimeoutError):
            await into.guest_speaks(0.5, serial=silent)


async def test_the_host_key_of_a_first_login_is_pinned_until_the_guest_boots_anew(rundir: RunDir) -> None:
    async with guest_running(rundir) as address:
        into = connections(rundir)
        into._spec = replace(into._spec, boot=replace(into._spec.boot, agent="/dev/null"))
        into.ssh_port = address.port
        assert into.ssh_address.host_key is None
        with pytest.raises(Exception, match="cannot start the agent"):  # this guest has no shell
            await into.wait_for_ssh(30, listens=lambda: True)
        assert into.ssh_address.host_key == address.host_key
        assert rundir.known_hosts_of("vm1").read_text() == f"* {address.host_key}\n"
        await into.close()
        into.forget_host_key()
        assert into.ssh_address.host_key is None
        assert not rundir.known_hosts_of("vm1").exists()
