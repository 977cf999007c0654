"""Which topology, VM, path or argument a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.broker import made
from tests.unit.cli.running import context, made_running
from vpctl.cli import choose
from vpctl.errors import NotFoundError, UsageError
from vpctl.rundir import Directories


def test_where_one_topology_runs_it_is_the_one_that_is_meant(directories: Directories) -> None:
    made_running(directories, "pair", "vm1", "vm2")
    made(directories, "left-over")
    assert choose.topology(context(directories)).name == "pair"
    assert choose.vm(context(directories), "vm2").name == "pair"


def test_where_several_run_a_name_is_needed_unless_only_one_has_the_vm(directories: Directories) -> None:
    made_running(directories, "one", "vm1", "a")
    made_running(directories, "two", "vm1", "b")
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
    made_running(directories, "pair", "vm1", "vm2")
    with pytest.raises(NotFoundError, match="no VM named `vm9`") as caught:
        choose.vm(context(directories), "vm9")
    assert caught.value.hint == "VMs are `vm1`, `vm2`"
    with pytest.raises(NotFoundError, match="no topology named `other` runs"):
        choose.vm(context(directories, "other"), "vm1")


def test_a_file_that_is_missing_has_no_vms(tmp_path: Path) -> None:
    directories = Directories(run=tmp_path / "r", state=tmp_path / "s", cache=tmp_path)
    assert choose.vms_of(directories.topology("pair")) == []
