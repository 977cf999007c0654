"""These tests are of KVM itself: they run where `make kvm` or `make kvm-here` has asked for it."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.vm.commandline import failure_report


@pytest.fixture(autouse=True, scope="session")
def _needs_kvm() -> None:
    """Skip where KVM was not asked for; where it was, it has to work."""
    if os.environ.get("VPCTL_ACCELERATOR") != "kvm":
        pytest.skip("needs KVM: `make kvm` (in a nested host) or `make kvm-here`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach journals, consoles and command lines to the report of a failure."""
    return (yield from failure_report(item, call))
