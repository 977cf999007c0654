"""The journal: every state change, QMP event and command, one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from vpctl.qmp.session import Journal as QmpJournal

QUIET_COMMANDS = frozenset({"ringbuf-read", "query-status"})
"""Commands of the health watch, several a minute for each VM: journalled only when they fail."""


class Journal(QmpJournal):
    """Appends entries and tells listeners; numbers go on where a supervisor before this one stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: FileIO | None = None
        self._cut = not _ends_with_newline(path)
        self._seq = max((entry.get("seq", 0) for entry in read(path)), default=0)
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []

    def write(
        self,
        type_: str,
        *,
        vm: str | None = None,
        link: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one entry. A full disk loses the entry, never the supervisor."""
        self._seq += 1
        entry: dict[str, Any] = {"time": time.time(), "seq": self._seq, "type": type_}
        if vm is not None:
            entry["vm"] = vm
        if link is not None:
            entry["link"] = link
        entry["attributes"] = dict(attributes or {})
        self._append(json.dumps(entry, default=str).encode() + b"\n")
        for listener in self.listeners:
            listener(entry)

    def _append(self, line: bytes) -> None:
        """Write a line past whatever a crash or a full disk has left of an earlier one."""
        try:
            if self._stream is None:
                self._stream = self._path.open("ab", buffering=0)
            if self._cut:
                line = b"\n" + line
            self._cut = self._stream.write(line) != len(line)
        except OSError:
            self._stream, self._cut = None, True

    def qmp_event(self, vm: str, event: Mapping[str, Any]) -> None:
        self.write("qmp.event", vm=vm, attributes={"event": event["event"], "data": event.get("data", {})})

    def qmp_command(
        self, vm: str, command: str, arguments: Mapping[str, Any], outcome: Mapping[str, Any], ms: float
    ) -> None:
        if command in QUIET_COMMANDS and "return" in outcome:
            return
        attributes = {"command": command, "arguments": arguments, "outcome": outcome, "ms": round(ms, 1)}
        self.write("qmp.command", vm=vm, attributes=attributes)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal; a line that a crash cut short is left out."""
    try:
        stream = path.open(errors="replace")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def _ends_with_newline(path: Path) -> bool:
    """Whether a file is missing, empty or whole to its last line."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            return stream.read(1) in (b"", b"\n")
    except FileNotFoundError:
        return True
