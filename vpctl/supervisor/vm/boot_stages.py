"""The stages of a VM's boot: their order, their limits, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vpctl.journal import Journal
from vpctl.recovery.state import BOOT_STAGES

STAGE_SECONDS = {"process": 20.0, "qmp": 30.0, "kernel": 90.0, "ssh": 180.0}
"""Limits per stage: some thirty times what a boot under TCG on two shared cores takes."""


class Stages:
    """The stages of one VM's boot; their times are kept until the next one."""

    def __init__(self, vm: str, limits: Mapping[str, float], journal: Journal) -> None:
        self.present = BOOT_STAGES[0]
        """The stage that was begun last."""
        self.timings: list[dict[str, Any]] = []
        self._vm = vm
        self._limits = limits
        self._journal = journal

    def forget(self, *names: str) -> None:
        """Forget how long these stages took: they come again."""
        self.timings = [entry for entry in self.timings if entry["stage"] not in names]

    @contextmanager
    def timed(self, stage: str) -> Iterator[float]:
        """Time a stage, and journal its begin and, if it comes to it, its end; yields its limit."""
        self.present = stage
        self._journal.write("vm.state", vm=self._vm, attributes={"stage": stage, "state": "begin"})
        began = time.monotonic()
        yield self._limits.get(stage, STAGE_SECONDS[stage])
        ms = round((time.monotonic() - began) * 1000, 1)
        self.timings.append({"vm": self._vm, "stage": stage, "ms": ms})
        self._journal.write("vm.state", vm=self._vm, attributes={"stage": stage, "state": "end", "ms": ms})
