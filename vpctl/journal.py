"""The journal: every state change, QMP event and command, one JSON object per line.

It is kept in segments, so that a topology which runs for months, or a guest which causes entry after entry, does not
fill the disk: `journal.jsonl` is written to, and once it is large it is renamed after its first entry's number
(`journal.000000000001.jsonl`), of which the newest few stay. `seq` goes on from one to the next.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from vpctl.qmp.session import Journal as QmpJournal

QUIET_COMMANDS = frozenset({"ringbuf-read", "query-status"})
"""Commands of the health watch, several a minute for each VM: journalled only when they fail."""

SEGMENT_BYTES = 16 << 20
"""Some 60,000 entries; beyond it, by at most one entry, the next segment begins."""

SEGMENTS = 4
"""How many full segments are kept, beside the one that is written to."""

TAIL_BYTES = 1 << 16
"""How much of a journal's end is read at first, to find its last entry."""


class Journal(QmpJournal):
    """Appends entries and tells listeners; numbers go on where a supervisor before this one stopped."""

    def __init__(self, path: Path, *, segment_bytes: int = SEGMENT_BYTES, segments: int = SEGMENTS) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._segments = segments
        self._stream: FileIO | None = None
        self._cut = not _ends_with_newline(path)
        self._seq = last_seq(path)
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
            if self._stream.tell() >= self._segment_bytes:
                self._stream = self._next_segment(self._stream)
            if self._cut:
                line = b"\n" + line
            self._cut = self._stream.write(line) != len(line)
        except OSError:
            self._stream, self._cut = None, True

    def _next_segment(self, full: FileIO) -> FileIO:
        """Put a full segment aside under the number of its first entry; remove the oldest ones beyond the limit."""
        first = next(read_segment(self._path), {"seq": self._seq})["seq"]
        self._path.rename(_segment_name(self._path, first))
        full.close()
        self._cut = False
        with suppress(OSError):  # what cannot be removed is tried again at the next full segment
            for path in segments(self._path)[: -self._segments]:
                path.unlink()
        return self._path.open("ab", buffering=0)

    def qmp_event(self, vm: str, event: Mapping[str, Any]) -> None:
        self.write("qmp.event", vm=vm, attributes={"event": event["event"], "data": event.get("data", {})})

    def qmp_command(
        self, vm: str, command: str, arguments: Mapping[str, Any], outcome: Mapping[str, Any], ms: float
    ) -> None:
        if command in QUIET_COMMANDS and "return" in outcome:
            return
        attributes = {"command": command, "arguments": arguments, "outcome": outcome, "ms": round(ms, 1)}
        self.write("qmp.command", vm=vm, attributes=attributes)


class Reader:
    """Reads a journal while it is written to: each call of `new` goes on where the one before it ended.

    A reader that is so slow that whole segments were removed meanwhile goes on with the oldest one left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._part = b""
        self.seq = 0
        """The number of the last entry that was returned, or skipped."""

    @classmethod
    def at_end(cls, path: Path) -> Reader:
        """Return a reader of what is written from now on, without reading what has been."""
        reader = cls(path)
        reader.seq = last_seq(path)
        with suppress(FileNotFoundError):
            reader._stream = path.open("rb")
            reader._to_last_line(reader._stream)
        return reader

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; `new` is not to be called again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the entries that have come since, in order; a line that is not whole yet waits for its end."""
        while True:
            if self._stream is not None:
                yield from self._rest(self._stream)
            following = self._open_next()
            if following is None:
                return
            if self._stream is not None:
                yield from self._rest(self._stream)  # written between the last look and the next segment's beginning
                self._stream.close()
            self._stream, self._part = following, b""

    def _rest(self, stream: BinaryIO) -> Iterator[dict[str, Any]]:
        for line in stream:
            self._part += line
            if not line.endswith(b"\n"):
                return
            entry, self._part = _entry(self._part), b""
            if entry is not None and entry["seq"] > self.seq:
                self.seq = entry["seq"]
                yield entry

    def _open_next(self) -> BinaryIO | None:
        """Open the segment after the one that is being read; None if that is the last one, or there is none."""
        while True:
            full = segments(self._path)
            stream = self._open_after(self._stream, [*full, self._path])
            if stream is None or segments(self._path) == full:
                return stream
            stream.close()  # a segment was put aside in between: what was opened may be a later one than the next

    @staticmethod
    def _open_after(present: BinaryIO | None, paths: list[Path]) -> BinaryIO | None:
        opened: BinaryIO | None = None
        for path in reversed(paths):
            try:
                stream = path.open("rb")
            except FileNotFoundError:
                continue
            if present is not None and os.path.sameopenfile(present.fileno(), stream.fileno()):
                stream.close()
                break
            if opened is not None:
                opened.close()
            opened = stream
        return opened

    @staticmethod
    def _to_last_line(stream: BinaryIO) -> None:
        """Seek to the beginning of a line that is not whole yet, or to the end."""
        at, end = 0, stream.seek(0, os.SEEK_END)
        for size in _growing(end):
            stream.seek(end - size)
            if (newline := stream.read(size).rfind(b"\n")) >= 0:
                at = end - size + newline + 1
                break
        stream.seek(at)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal, older segments first; a line that a crash cut short is left out."""
    with Reader(path) as reader:
        yield from reader.new()


def read_segment(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of one file of a journal."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            if (entry := _entry(line)) is not None:
                yield entry


def segments(path: Path) -> list[Path]:
    """Return the full segments of a journal, the oldest first; the one that is written to is not among them."""
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    numbers = {file: file.name[len(path.stem) + 1 : -len(path.suffix)] for file in found}
    return sorted((file for file, number in numbers.items() if number.isdecimal()), key=lambda f: int(numbers[f]))


def last_seq(path: Path) -> int:
    """Return the number of a journal's last entry, 0 if it has none; reads no more of it than its end."""
    for file in (path, *reversed(segments(path))):
        with suppress(FileNotFoundError):
            if seq := _last_seq_in(file):
                return seq
    return 0


def _last_seq_in(path: Path) -> int:
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        for size in _growing(end):
            stream.seek(end - size)
            lines = stream.read(size).split(b"\n")
            # The first one is a part of a line, unless the file begins with it.
            for line in reversed(lines if size == end else lines[1:]):
                if (entry := _entry(line)) is not None:
                    return int(entry["seq"])
    return 0


def _growing(end: int) -> Iterator[int]:
    """Yield sizes of a file's tail, each larger than the one before it, up to the whole file."""
    size = TAIL_BYTES
    while size < end:
        yield size
        size *= 4
    yield end


def _segment_name(path: Path, seq: int) -> Path:
    return path.with_name(f"{path.stem}.{seq:012}{path.suffix}")


def _entry(line: bytes) -> dict[str, Any] | None:
    """Read a line; None for what is no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("seq"), int):
        return None
    return entry


def _ends_with_newline(path: Path) -> bool:
    """Whether a file is missing, empty or whole to its last line."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            return stream.read(1) in (b"", b"\n")
    except FileNotFoundError:
        return True
