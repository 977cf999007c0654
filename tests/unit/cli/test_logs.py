"""Logs of what runs no more."""

from __future__ import annotations

import pytest

from tests.fakes.broker import made
from tests.unit.cli.running import context
from vpctl.cli import logs
from vpctl.errors import NotFoundError, UsageError
from vpctl.rundir import Directories


def test_logs_of_a_failed_up_are_found_without_anything_made_running(directories: Directories) -> None:
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
