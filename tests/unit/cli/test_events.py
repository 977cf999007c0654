"""How an entry of the journal is shown."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vpctl.cli import events


@pytest.mark.parametrize(
    ("type_", "attributes", "text"),
    [
        ("vm.state", {"state": "ready", "generation": 1, "reason": None}, "state=ready generation=1"),
        ("qmp.event", {"event": "STOP", "data": {}}, "STOP"),
        ("qmp.event", {"event": "DEVICE_DELETED", "data": {"device": "d"}}, 'DEVICE_DELETED {"device": "d"}'),
        (
            "qmp.command",
            {"command": "device_del", "arguments": {"id": "d"}, "outcome": {"return": {}}, "ms": 1.26},
            "device_del d → ok (1.3 ms)",
        ),
        (
            "qmp.command",
            {"command": "cont", "arguments": {}, "outcome": {"timeout": 10.0}, "ms": 10_000.0},
            'cont → {"timeout": 10.0} (10000 ms)',
        ),
        (
            "qmp.command",
            {"command": "set_link", "arguments": {"name": "n", "up": False}, "outcome": {"return": {}}, "ms": 10.4},
            "set_link n off → ok (10 ms)",
        ),
        ("fault", {"fault": "qemu-exit", "generation": 1, "reason": "QEMU was killed"}, "qemu-exit: QEMU was killed"),
        ("fault", {"fault": "broker-exit"}, "fault=broker-exit"),
        (
            "recovery.step",
            {"name": "plug", "target": "vm2/lan0.g2", "at_ms": 1.0, "ms": 61.4, "ok": True},
            "plug vm2/lan0.g2 → ok (61 ms)",
        ),
        (
            "recovery.step",
            {"name": "boot", "target": "vm1", "at_ms": 1.0, "ms": 2.0, "ok": False},
            "boot vm1 → failed (2.0 ms)",
        ),
        ("recovery.step", {"attempt": 1, "of": 3, "error": "no"}, "attempt=1 of=3 error=no"),
        (
            "recovery.end",
            {"fault": "qemu-exit", "ok": True, "total_ms": 1234.5, "steps": []},
            "qemu-exit: ok, 1234 ms",
        ),
        ("recovery.end", {"fault": "qemu-exit", "ok": False, "total_ms": 2.0}, "qemu-exit: failed, 2 ms"),
        ("command", {"command": "up", "error": "no"}, "command=up error=no"),
    ],
)
def test_a_journal_entry_is_one_line(type_: str, attributes: dict[str, Any], text: str) -> None:
    assert events.summary(type_, attributes) == text
    entry = {"time": 1000.25, "seq": 12, "type": type_, "vm": "vm1", "attributes": attributes}
    line = events.line(entry)
    assert line.endswith(text)
    assert "\n" not in line
    assert re.match(r"\d\d:\d\d:\d\d\.250   12 " + re.escape(type_) + " +vm1 ", line)
