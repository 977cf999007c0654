"""How much a test reads, by the kernel's count: that something is not read again can be tested without a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def bytes_read() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the bytes read since; rchar of proc(5), the thread's own."""
    before = _count()
    yield lambda: _count() - before


def _count() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return int(fields["rchar"])
