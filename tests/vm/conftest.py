"""Real guests: a user of one's own for each test, and what lies behind a failure in its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator

import pytest

from tests.vm.commandline import Vpctl, failure_report, user
from vpctl.rundir import Directories


@pytest.fixture(autouse=True, scope="session")
def _needs_qemu() -> None:
    """Skip where there is no QEMU; where CI is set that is a failure."""
    qemu = os.environ.get("VPCTL_QEMU") or "qemu-system-x86_64"
    if shutil.which(qemu) is None:
        pytest.skip(f"`{qemu}` is not installed")


@pytest.fixture
def vpctl(directories: Directories) -> Iterator[Vpctl]:
    """The command line, for one test; whatever it has started is stopped afterwards."""
    with user(directories) as own:
        yield own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach journals, consoles and command lines to the report of a failure."""
    return (yield from failure_report(item, call))
