"""Rules for every test: own directories, nothing left running, asyncio's debug mode, no silent skips in CI."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from tests.support import IN_CI, isolated_directories
from vpctl.rundir import Directories

LONGEST = ("test_soak", "test_vhost_pci", "test_bench", "test_recovery", "test_faults", "test_vhost_driver")
"""The modules with guests that take longest."""


def pytest_configure(config: pytest.Config) -> None:
    """Register our marker, and find coroutines that were never awaited or that block the loop."""
    config.addinivalue_line("markers", "mandatory: must run in CI; elsewhere it may be skipped, with its reason")
    config.option.asyncio_debug = True
    hypothesis.settings.register_profile("vpctl", deadline=None)  # the host may be busy
    hypothesis.settings.load_profile("vpctl")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `long` out unless `-m` says what to run; see to it that several workers end together."""
    if not config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if hasattr(config, "workerinput"):
        items.sort(key=_order)  # the same in every worker, as xdist wants it


def _order(item: pytest.Item) -> int:
    """Where a module comes if there are several workers, which take one module after another in this order.

    Those that take minutes come first, those without guests last: so the workers end at nearly the same time.
    """
    if item.get_closest_marker("vm") is None:
        return len(LONGEST) + 1
    return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test that CI relies on into a failure."""
    report = yield
    relied_on = any(item.get_closest_marker(name) for name in ("vm", "mandatory"))
    if IN_CI and report.skipped and relied_on and not hasattr(report, "wasxfail"):
        reason = call.excinfo.value if call.excinfo is not None else "no reason"
        report.outcome = "failed"
        report.longrepr = f"skipped, but mandatory where CI is set: {reason}"
    return report


@pytest.fixture(autouse=True)
def directories() -> Iterator[Directories]:
    """Run and state directories of this test alone; at its end no process may be left that knows them."""
    with isolated_directories(os.environ) as own:
        yield own
