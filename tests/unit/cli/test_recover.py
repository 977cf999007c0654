"""How a recovery is shown."""

from __future__ import annotations

from tests.unit.cli.view.shown import STEP, shown
from vpctl.cli import recover


def test_a_recovery_shows_its_steps_its_links_and_its_sums() -> None:
    times = {"detect_ms": 12.0, "survivor_ms": 80.0, "boot_ms": 900.0, "total_ms": 1000.0, "overhead_ms": 100.0}
    links = [
        {"link": "lan0", "ok": True, "outage_ms": 1000.0, "policy": "relink"},
        {"link": "wan0", "ok": False, "outage_ms": None, "policy": None},
    ]
    report = {"vm": "vm1", "fault": "qemu-exit", "policy": "replug", "steps": [STEP], **times, "links": links}
    text = shown(recover.recovery_table(report))
    assert "vm1: qemu-exit, recovered by replug: detected after 12 ms, " in text
    assert "total 1000 ms, overhead 100 ms" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "61", "plug", "vm2/lan0.g2", "ok"] in rows
    assert ["lan0", "relink", "ok", "1000"] in rows, "the policy by which it was repaired, whatever was asked for"
    assert ["wan0", "-", "failed", "-"] in rows
    assert "nothing was done" in shown(recover.recovery_table({"vm": "vm1", "healthy": True}))
