"""Limits for logs that other processes write, and for how many lives of a VM keep theirs.

QEMU and the services hold their logs open for weeks, so none can be renamed under them. All of them append: QEMU
opens `logfile` with O_APPEND if `logappend=on`, and the broker opens the output of what it starts so. A file that is
cut to nothing then goes on at its beginning.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from vpctl.rundir import read_json

LOG_BYTES = 8 << 20
"""A log that is larger is put aside as `NAME.1`, in place of the one before it: 8 to 16 MiB of each are kept."""

LIMIT_SECONDS = 2.0
"""From one look at the logs to the next. A serial port of a guest writes some MB in that time at most."""

LIVES = 10
"""How many lives of a VM keep their logs, the present one included."""

NEWEST_LIVES = 3
"""How many of these are the newest ones, however they ended."""


def older(path: Path) -> Path:
    """Return where the older part of a log lies, if it was ever put aside."""
    return path.with_name(f"{path.name}.1")


def read_whole(path: Path) -> str:
    """Return all that is kept of a log, as text; empty if there is none."""
    parts = (part.read_bytes() for part in (older(path), path) if part.exists())
    return b"".join(parts).decode(errors="replace")


def tail(path: Path, size: int) -> bytes:
    """Return the last bytes that are kept of a log, the older part included; empty if there is none."""
    found = b""
    for part in (path, older(path)):
        with contextlib.suppress(FileNotFoundError), part.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - (size - len(found))))
            found = stream.read(size - len(found)) + found
    return found


def limit(path: Path, most: int = LOG_BYTES) -> bool:
    """Put the end of a log of more than `most` bytes aside and empty it, while its writer appends; whether it did so.

    What is written in the microseconds between the last read and the cut is lost, be it the second half of a write
    that crosses a page, whose first half was read. If there is no room for the part
    that is to be kept, all of it is: a full disk costs every topology of the host more than a log.
    """
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as log:
        size = log.seek(0, os.SEEK_END)
        if size <= most:
            return False
        log.seek(size - most)
        temporary = path.with_name(f".{path.name}.1")
        try:
            with temporary.open("wb", buffering=0) as kept:
                shutil.copyfileobj(log, kept)  # to its end, with what is written meanwhile
            temporary.replace(older(path))
        except OSError:
            temporary.unlink(missing_ok=True)
        log.truncate(0)
        return True
    return False


def prune(directory: Path, *, present: int, lives: int = LIVES, newest: int = NEWEST_LIVES) -> None:
    """Remove the logs of older lives of a VM until `lives` remain; those that ended well (exit status 0) go first."""
    with contextlib.suppress(OSError):
        numbers = sorted(int(life.name) for life in directory.iterdir() if life.name.isdecimal())
        old = [number for number in numbers if number != present][: -newest or None]
        surplus = len({*numbers, present}) - lives
        for number in sorted(old, key=lambda n: (not _ended_well(directory / str(n)), n))[: max(0, surplus)]:
            shutil.rmtree(directory / str(number), ignore_errors=True)


def _ended_well(life: Path) -> bool:
    record = read_json(life / "exit.json")
    return isinstance(record, dict) and record.get("status") == 0
