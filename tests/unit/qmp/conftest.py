"""Fixtures of more than one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpctl.rundir import Directories


@pytest.fixture
def path(directories: Directories) -> Path:
    directories.run.mkdir(parents=True)
    return directories.run / "vm1.qmp"
