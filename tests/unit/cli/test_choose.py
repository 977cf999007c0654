"""Which topology, VM, path or argument a command line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.broker.service import hold
from vpctl.cli import choose, copy, down, guest, logs, qmp
from vpctl.cli.verb import Common, Context, OutputFormat
from vpctl.errors import NotFoundError, UsageError
from vpctl.guest.ssh import GuestSshError
from vpctl.log import Silent
from vpctl.plan.run import run_to_json
from vpctl.rundir import Directories, write_json


def running(directories: Directories, name: str, *vms: str) -> None:
    """Make a topology of these VMs run: its broker's lock is held, by this process."""
    rundir = made(directories, name)
    write_json(rundir.spec, run_to_json(made_run(made_topology(vms=vms, name=name))))
    hold(rundir)


def context(directories: Directories, topology: str | None = None) -> Context:
    common = Common(topology=topology, format=OutputFormat.TABLE, verbose=0, quiet=False, debug=False)
    return Context(common=common, log=Silent(), directories=directories, environ={})


def test_where_one_topology_runs_it_is_the_one_that_is_meant(directories: Directories) -> None:
    running(directories, "pair", "vm1", "vm2")
    made(directories, "left-over")
    assert choose.topology(context(directories)).name == "pair"
    assert choose.vm(context(directories), "vm2").name == "pair"


def test_where_several_run_a_name_is_needed_unless_only_one_has_the_vm(directories: Directories) -> None:
    running(directories, "one", "vm1", "a")
    running(directories, "two", "vm1", "b")
    with pytest.raises(UsageError, match="2 topologies run") as caught:
        choose.topology(context(directories))
    assert caught.value.hint == "choose one with `-t NAME`: `one`, `two`"
    with pytest.raises(UsageError, match="2 topologies have a VM named `vm1`") as caught:
        choose.vm(context(directories), "vm1")
    assert caught.value.hint == "-t one, for instance"
    assert choose.vm(context(directories), "b").name == "two"
    assert choose.vm(context(directories, "two"), "vm1").name == "two"
    assert choose.topology(context(directories, "one")).name == "one"
    assert choose.topology(context(directories), "two").name == "two"


def test_what_is_not_there_is_told_with_what_is(directories: Directories) -> None:
    for ask in (choose.topology, lambda where: choose.vm(where, "vm1")):
        with pytest.raises(NotFoundError, match="no topology runs") as caught:
            ask(context(directories))
        assert caught.value.hint == "vpctl up FILE"
    running(directories, "pair", "vm1", "vm2")
    with pytest.raises(NotFoundError, match="no VM named `vm9`") as caught:
        choose.vm(context(directories), "vm9")
    assert caught.value.hint == "VMs are `vm1`, `vm2`"
    with pytest.raises(NotFoundError, match="no topology named `other` runs"):
        choose.vm(context(directories, "other"), "vm1")


def test_down_stops_the_one_that_runs_or_asks_which(directories: Directories) -> None:
    where = context(directories)
    assert down.names(where, None, every=False) == []
    assert down.names(where, "gone", every=False) == ["gone"]
    made(directories, "left-over")
    assert down.names(where, None, every=False) == ["left-over"]
    running(directories, "one", "vm1")
    assert down.names(where, None, every=False) == ["one"]
    running(directories, "two", "vm1")
    with pytest.raises(UsageError, match="2 topologies run"):
        down.names(where, None, every=False)
    assert down.names(where, None, every=True) == ["left-over", "one", "two"]
    with pytest.raises(UsageError, match="exclude each other"):
        down.names(where, "one", every=True)


def test_logs_of_a_failed_up_are_found_without_anything_running(directories: Directories) -> None:
    where = context(directories)
    with pytest.raises(NotFoundError, match="no logs of a VM named `vm1`"):
        logs.generations(where, "vm1")
    made(directories)
    for generation in (1, 2, 10):
        (directories.topology("pair").generation("vm1", generation)).mkdir(parents=True)
    assert sorted(logs.generations(where, "vm1")) == [1, 2, 10]
    made(directories, "two").generation("vm1", 1).mkdir(parents=True)
    with pytest.raises(UsageError, match="2 topologies have a VM named `vm1`"):
        logs.generations(where, "vm1")
    assert list(logs.generations(context(directories, "two"), "vm1")) == [1]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("vm1:/tmp/x", ("vm1", "/tmp/x")),
        ("vm1:", ("vm1", "")),
        ("vm1:a:b", ("vm1", "a:b")),
        ("file", None),
        ("./a:b", None),
        ("/tmp/a:b", None),
        (":x", None),
        ("", None),
    ],
)
def test_a_path_with_a_vm_before_its_colon_is_the_guests(path: str, parts: tuple[str, str] | None) -> None:
    assert copy.split(path) == parts


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("vm1:a", "vm2:b")])
async def test_one_side_of_a_copy_is_a_guests(directories: Directories, source: str, target: str) -> None:
    with pytest.raises(UsageError, match="one of the two paths must be VM:PATH"):
        await copy.copy(context(directories), source, target)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (
            ["id=nic0", "force=true", "size=4096", 'data={"a": [1]}'],
            {"id": "nic0", "force": True, "size": 4096, "data": {"a": [1]}},
        ),
        (['id="42"', "path=a=b", "empty="], {"id": "42", "path": "a=b", "empty": ""}),
        (["addr.type=unix", "addr.path=/x", "addr.a.b=1"], {"addr": {"type": "unix", "path": "/x", "a": {"b": 1}}}),
    ],
)
def test_arguments_of_a_qmp_command_are_json_or_plain_words(words: list[str], arguments: dict[str, Any]) -> None:
    assert qmp.parse(words) == arguments


@pytest.mark.parametrize("words", [["nonsense"], ["=x"], ["a=1", "a.b=2"]])
def test_an_argument_that_is_none_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        qmp.parse(words)


@pytest.mark.parametrize(
    ("state", "paused", "message", "hint"),
    [
        ("ready", True, "VM `vm1` is paused", "vpctl qmp vm1 cont"),
        ("crashed", False, "VM `vm1` is crashed", "vpctl recover vm1"),
        ("ready", False, None, None),
    ],
)
def test_a_vm_that_cannot_answer_is_not_waited_for(
    directories: Directories, state: str, paused: bool, message: str | None, hint: str | None
) -> None:
    running(directories, "pair", "vm1")
    ssh = {"port": 1, "user": "root", "identity": "/none", "host_key": None}
    entry = {"name": "vm1", "state": state, "paused": paused, "ssh": ssh}
    write_json(directories.topology("pair").status, {"vms": [entry]})
    if message is None:
        assert guest.address(context(directories), "vm1").port == 1
        return
    with pytest.raises(GuestSshError) as caught:
        guest.address(context(directories), "vm1")
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_file_that_is_missing_has_no_vms(tmp_path: Path) -> None:
    directories = Directories(run=tmp_path / "r", state=tmp_path / "s", cache=tmp_path)
    assert choose.vms_of(directories.topology("pair")) == []
