"""The timed record of a recovery, in the shape of the user contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vpctl.recovery.faults import Fault


@dataclass(kw_only=True, slots=True)
class Recorder:
    """Collects the steps of one recovery; all times count from `fault_at` (CLOCK_MONOTONIC, seconds)."""

    vm: str
    fault: Fault
    policy: str
    fault_at: float
    detected_at: float
    on_step: Callable[[Mapping[str, Any]], None]
    """Called with each finished step."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    outages: dict[str, float] = field(default_factory=dict)
    """Link → ms from the fault to its first verified packet each way."""
    policies: dict[str, str] = field(default_factory=dict)
    """Link → the policy by which it was repaired last."""
    boot_ms: float = 0.0
    survivor_ms: float = 0.0
    """From the fault to the moment when the last survivor's end was repaired, or free of the dead one where it has to
    wait for that one's next life."""

    def survivor_repaired(self, vms: Collection[str]) -> None:
        """Take in that the ends of these survivors, if any, are repaired as far as that goes without the dead one."""
        if vms:
            self.survivor_ms = max(self.survivor_ms, self.since_fault())

    def since_fault(self, at: float | None = None) -> float:
        """Return the milliseconds from the fault to now, or to a moment of CLOCK_MONOTONIC."""
        return ((time.monotonic() if at is None else at) - self.fault_at) * 1000

    @contextmanager
    def step(self, name: str, target: str) -> Iterator[None]:
        """Time one step; it is recorded when the block ends, with `ok` false if it raised."""
        began = self.since_fault()
        ok = False
        try:
            yield
            ok = True
        finally:
            entry = {
                "name": name,
                "target": target,
                "at_ms": round(began, 1),
                "ms": round(self.since_fault() - began, 1),
                "ok": ok,
            }
            self.steps.append(entry)
            self.on_step({"vm": self.vm, **entry})

    def result(self, *, ok: bool, total_ms: float, links: Mapping[str, bool]) -> dict[str, Any]:
        """Return the recovery as the contract has it; times in ms, `outage_ms` None for a link that is not back."""
        return {
            "vm": self.vm,
            "fault": str(self.fault),
            "policy": self.policy,
            "ok": ok,
            "steps": sorted(self.steps, key=lambda step: step["at_ms"]),
            "detect_ms": round((self.detected_at - self.fault_at) * 1000, 1),
            "survivor_ms": round(self.survivor_ms, 1),
            "boot_ms": round(self.boot_ms, 1),
            "total_ms": round(total_ms, 1),
            "overhead_ms": round(total_ms - self.boot_ms, 1),
            "links": [
                {
                    "link": link,
                    "ok": link_ok,
                    "outage_ms": rounded(self.outages.get(link)),
                    "policy": self.policies.get(link),
                }
                for link, link_ok in links.items()
            ],
        }


def rounded(ms: float | None) -> float | None:
    """Round milliseconds to a tenth."""
    return None if ms is None else round(ms, 1)
