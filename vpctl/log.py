"""Nested, timed steps and messages on stderr; data never comes this way.

A `Log` is passed to whatever reports progress. Three writers exist: plain lines (a pipe, a CI job, a file), live
lines on a terminal (`cli/view/render.py` subclasses `Log` for that), and `Silent` for tests and `-q`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from vpctl.text import printable


@dataclass(slots=True)
class Step:
    """A piece of work under way; `update` says how far it is."""

    name: str
    log: Log
    depth: int
    started: float = field(default_factory=time.monotonic)
    detail: str = ""

    def update(self, detail: str) -> None:
        """Say how far the step is; shown live on a terminal, dropped in plain output."""
        self.detail = detail
        self.log.progress(self)

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started


class Log:
    """Plain lines: `name …` at the start, `name: 1.2 s` at the end, in parentheses while an error unwinds."""

    def __init__(self, stream: TextIO | None = None, *, verbosity: int = 0) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.verbosity = verbosity
        self._depth = 0

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Announce a step for as long as the block lasts."""
        step = Step(name, self, self._depth)
        self._depth += 1
        self.began(step)
        try:
            yield step
        except BaseException:
            self._depth -= 1
            self.failed(step)
            raise
        self._depth -= 1
        self.ended(step)

    def began(self, step: Step) -> None:
        self.line(f"{'  ' * step.depth}{step.name} …")

    def progress(self, step: Step) -> None:
        if self.verbosity > 0:
            self.line(f"{'  ' * step.depth}  {step.detail}")

    def ended(self, step: Step) -> None:
        detail = f" ({step.detail})" if step.detail else ""
        self.line(f"{'  ' * step.depth}{step.name}: {step.seconds:.1f} s{detail}")

    def failed(self, step: Step) -> None:
        self.line(f"{'  ' * step.depth}({step.name}: failed after {step.seconds:.1f} s)")

    def info(self, message: str) -> None:
        """Say something that is worth a line."""
        self.line(f"{'  ' * self._depth}{message}")

    def warning(self, message: str, *, hint: str | None = None) -> None:
        """Say something that the user should change or know."""
        self.line(f"warning: {message}")
        if hint is not None:
            self.line(f"hint: {hint}")

    def debug(self, message: str) -> None:
        """Say something that only `-v` shows."""
        if self.verbosity > 0:
            self.line(f"{'  ' * self._depth}{message}")

    def line(self, text: str) -> None:
        """Write one line; a stderr that takes none is no reason to fail."""
        try:
            print(printable(text), file=self.stream, flush=True)
        except (OSError, ValueError):
            return


class Silent(Log):
    """Says nothing but warnings."""

    def began(self, step: Step) -> None:
        return

    progress = ended = failed = began

    def info(self, message: str) -> None:
        return

    debug = info
