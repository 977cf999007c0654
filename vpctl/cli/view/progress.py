"""Progress on stderr: a live block on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from vpctl.cli.view import render
from vpctl.log import Log, Step
from vpctl.recovery.state import BOOT_STAGES
from vpctl.text import printable


class LiveLog(Log):
    """Shows the innermost step with its detail on one line that is rewritten; finished steps stay."""

    def began(self, step: Step) -> None:
        self._rewrite(f"{'  ' * step.depth}{step.name} …")

    def progress(self, step: Step) -> None:
        self._rewrite(f"{'  ' * step.depth}{step.name}: {step.seconds:.0f} s  {step.detail}")

    def line(self, text: str) -> None:
        self.stream.write("\r\x1b[K")
        super().line(text)

    def _rewrite(self, text: str) -> None:
        width = render.console(self.stream).width
        self.stream.write("\r\x1b[K" + printable(text)[: width - 1])
        self.stream.flush()


class Stages:
    """The boot of VMs and the repair of links, from journal entries."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._began = time.monotonic()

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take in one journal entry."""
        attributes = entry.get("attributes", {})
        if entry["type"] == "vm.state":
            self._vm(entry["vm"], attributes)
        elif entry["type"] == "link.state":
            self._say(entry["link"], str(attributes["state"]))
        elif entry["type"] == "fault":
            self._say(entry.get("vm", "vpctl"), f"{attributes['fault']} {attributes.get('reason', '')}".rstrip())
        elif entry["type"] == "recovery.step":
            self._step(entry.get("vm", "vpctl"), attributes)

    def _step(self, who: str, attributes: Mapping[str, Any]) -> None:
        if "ms" in attributes:
            if attributes["name"] != "boot":  # its stages are shown one by one
                failed = "" if attributes["ok"] else " failed"
                self._say(attributes["target"], f"{attributes['name']}{failed} ({attributes['ms']:.0f} ms)")
        elif "attempt" in attributes:
            self._say(who, f"attempt {attributes['attempt']} of {attributes['of']}: {attributes['error']}")
        elif "error" in attributes:
            self._say(who, f"{attributes.get('name', 'step')} failed: {attributes['error']}")

    def _vm(self, vm: str, attributes: Mapping[str, Any]) -> None:
        if "stage" in attributes:
            if attributes["state"] == "end":
                self._say(vm, f"{attributes['stage']} ({attributes['ms']:.0f} ms)")
        elif attributes["state"] in ("ready", "crashed", "recovering", "failed", "stopped"):
            self._say(vm, attributes["state"])

    def _say(self, who: str, what: str) -> None:
        self._log.info(f"{time.monotonic() - self._began:6.2f}  {who:<12} {what}")


class LiveStages(Stages):
    """The same as a table that is redrawn: a row for each VM and link, a column for each stage."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._rows: dict[str, dict[str, str]] = {}
        self._drawn = 0

    def _vm(self, vm: str, attributes: Mapping[str, Any]) -> None:
        row = self._rows.setdefault(vm, {})
        if "stage" in attributes:
            stage = str(attributes["stage"])
            if stage == BOOT_STAGES[0] and attributes["state"] == "begin":
                row.clear()
            row[stage] = "…" if attributes["state"] == "begin" else f"{attributes['ms'] / 1000:.2f} s"
        else:
            row["state"] = str(attributes["state"])
        self._draw()

    def _say(self, who: str, what: str) -> None:
        self._rows.setdefault(who.split("/")[-1].split(".g")[0], {})["state"] = what
        self._draw()

    def _draw(self) -> None:
        stream = self._log.stream
        width = render.console(stream).width
        lines = [
            f"{'':<12}"
            + "".join(f"{stage:>9}" for stage in BOOT_STAGES)
            + f"  {time.monotonic() - self._began:.1f} s"
        ]
        for name, row in self._rows.items():
            lines.append(
                f"{name:<12}"
                + "".join(f"{row.get(stage, ''):>9}" for stage in BOOT_STAGES)
                + f"  {row.get('state', '')}"
            )
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        stream.write(up + "".join(f"\r\x1b[K{printable(line)[: width - 1]}\n" for line in lines))
        stream.flush()
        self._drawn = len(lines)


def stages(log: Log) -> Stages:
    """Return the view that fits where the log goes."""
    return LiveStages(log) if isinstance(log, LiveLog) else Stages(log)


def make_log(*, quiet: bool, verbose: int) -> Log:
    """Return the log for this process's stderr."""
    from vpctl.log import Silent

    if quiet:
        return Silent(sys.stderr)
    return (LiveLog if render.is_live(sys.stderr) else Log)(sys.stderr, verbosity=verbose)
