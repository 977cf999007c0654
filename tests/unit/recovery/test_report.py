"""The report of a recovery: its shape is the contract's, its sums are right."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from vpctl.recovery.faults import Fault
from vpctl.recovery.report import Recorder


def recorder(*, fault_at: float = 0.0, **more: Any) -> tuple[Recorder, list[Mapping[str, Any]]]:
    """Return a recorder and the list of what it told."""
    told: list[Mapping[str, Any]] = []
    values = {"vm": "vm1", "fault": Fault.QEMU_EXIT, "policy": "replug", "detected_at": fault_at + 0.0125}
    return Recorder(fault_at=fault_at, on_step=told.append, **{**values, **more}), told


def test_a_report_has_the_contracts_keys_and_sums() -> None:
    made, _ = recorder(fault_at=100.0, boot_ms=900.04, survivor_ms=55.55)
    made.outages["lan0"] = 1234.56
    made.policies["lan0"] = "relink"
    report = made.result(ok=True, total_ms=1234.56, links={"lan0": True, "wan0": False})
    assert report == {
        "vm": "vm1",
        "fault": "qemu-exit",
        "policy": "replug",
        "ok": True,
        "steps": [],
        "detect_ms": 12.5,
        "survivor_ms": 55.5,
        "boot_ms": 900.0,
        "total_ms": 1234.6,
        "overhead_ms": 334.5,
        "links": [
            {"link": "lan0", "ok": True, "outage_ms": 1234.6, "policy": "relink"},
            {"link": "wan0", "ok": False, "outage_ms": None, "policy": None},
        ],
    }
    assert type(report["fault"]) is str


def test_steps_are_timed_from_the_fault_told_when_they_end_and_listed_by_their_begin() -> None:
    made, told = recorder(fault_at=time.monotonic() - 1.0)
    with made.step("boot", "vm1"):
        time.sleep(0.01)
        with made.step("plug", "vm2/lan0.g2"):
            pass
    assert [(step["vm"], step["name"], step["ok"]) for step in told] == [("vm1", "plug", True), ("vm1", "boot", True)]
    steps = made.result(ok=True, total_ms=0, links={})["steps"]
    assert [(step["name"], step["target"]) for step in steps] == [("boot", "vm1"), ("plug", "vm2/lan0.g2")]
    assert all(1000 <= step["at_ms"] < 6000 and 0 <= step["ms"] < 5000 for step in steps)


def test_a_step_that_raises_is_recorded_as_failed_and_the_error_goes_on() -> None:
    made, told = recorder(fault_at=time.monotonic())
    with pytest.raises(KeyError), made.step("fence", "vm1"):
        raise KeyError
    assert [(step["name"], step["ok"]) for step in told] == [("fence", False)]
