"""Fixtures of more than one file."""

from __future__ import annotations

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.state import TopologyState


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


@pytest.fixture
def state(rundir: RunDir) -> TopologyState:
    return TopologyState(made_run(made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm2", "vm3"))), rundir)
