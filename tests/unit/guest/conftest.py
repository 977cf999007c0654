"""Fixtures of more than one file."""

from __future__ import annotations

import pytest

from tests.fakes.broker import made
from vpctl.rundir import Directories, RunDir


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)
