"""What a boot or a recovery shows on the way: lines, or a live table."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from tests.unit.cli.view.shown import STEP, Terminal
from vpctl.cli.view import progress
from vpctl.log import Log

ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "qmp", "state": "begin"}}, ""),
    ({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "qmp", "state": "end", "ms": 12.3}}, r"qmp \(12 ms\)"),
    ({"type": "vm.state", "vm": "vm1", "attributes": {"state": "crashed", "generation": 1}}, "crashed"),
    ({"type": "link.state", "link": "lan0", "attributes": {"state": "up", "generation": 1}}, "lan0 +up"),
    ({"type": "fault", "vm": "vm1", "attributes": {"fault": "qemu-exit", "reason": "killed"}}, "qemu-exit killed"),
    ({"type": "fault", "attributes": {"fault": "broker-exit"}}, "vpctl +broker-exit"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": STEP}, r"vm2/lan0.g2 +plug \(61 ms\)"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": {**STEP, "ok": False}}, r"plug failed \(61 ms\)"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": {**STEP, "name": "boot"}}, ""),
    (
        {"type": "recovery.step", "vm": "vm1", "attributes": {"attempt": 1, "of": 3, "error": "no"}},
        "attempt 1 of 3: no",
    ),
    (
        {
            "type": "recovery.step",
            "attributes": {"name": "start-broker", "target": "broker", "ok": False, "error": "no"},
        },
        "vpctl +start-broker failed: no",
    ),
    ({"type": "recovery.end", "vm": "vm1", "attributes": {"ok": True}}, ""),
    ({"type": "check", "link": "lan0", "attributes": {"ok": True}}, ""),
    ({"type": "command", "attributes": {"command": "take-over", "adopted": []}}, ""),
]


@pytest.mark.parametrize(("entry", "text"), ENTRIES)
def test_progress_shows_what_matters_of_every_entry_that_the_supervisor_writes(
    entry: dict[str, Any], text: str
) -> None:
    stream = io.StringIO()
    progress.stages(Log(stream)).take(entry)
    assert re.search(text, stream.getvalue())
    assert bool(stream.getvalue()) is bool(text)
    progress.stages(progress.LiveLog(Terminal())).take(entry)


def test_a_live_table_redraws_its_rows_in_place() -> None:
    stream = Terminal()
    view = progress.stages(progress.LiveLog(stream))
    view.take({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "process", "state": "begin"}})
    view.take({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "process", "state": "end", "ms": 40.0}})
    assert stream.getvalue().count("\x1b[2A") == 1
    assert "0.04 s" in stream.getvalue()
