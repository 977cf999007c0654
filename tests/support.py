"""What several test modules share: directories of their own, and proof that nothing was left running in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vpctl import wait
from vpctl.process import ProcessId, identify
from vpctl.rundir import Directories

T = TypeVar("T")

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
"""In CI what cannot run is a failure: a skip would look green."""

PATIENCE = float(os.environ.get("VPCTL_TEST_PATIENCE") or 1)
"""What every limit of time is multiplied by: more than 1 where KVM itself is emulated. No assertion depends on it."""


async def until(
    probe: Callable[[], Awaitable[T | None]],
    *,
    timeout: float,
    what: str,
    every: float = 0.05,
    last_seen: Callable[[], str] | None = None,
) -> T:
    """Wait as `vpctl.wait.until` does, with its limit stretched by PATIENCE."""
    return await wait.until(probe, timeout=timeout * PATIENCE, what=what, every=every, last_seen=last_seen)


def describe(pid: int) -> str:
    """Return a process's command line, readable."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def _mentions(pid: int, needle: bytes) -> bool:
    for name in ("cmdline", "environ"):
        # Gone meanwhile, a zombie, or another user's: not ours in any of the cases.
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{pid}/{name}").read_bytes():
                return True
    return False


def processes_mentioning(path: Path) -> list[ProcessId]:
    """Return the processes, this one and its parents apart, that have a path in their argv or environment."""
    own = {os.getpid(), os.getppid()}
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = [identify(pid) for pid in pids if pid not in own and _mentions(pid, os.fsencode(path))]
    return [process for process in found if process is not None and process.is_alive()]


def leftovers(path: Path, *, grace: float = 2.0) -> list[str]:
    """Name the processes that still live in a run directory after `grace` seconds, and kill each by its pid."""
    deadline = time.monotonic() + grace
    while (found := processes_mentioning(path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    named = [f"{process.pid}: {describe(process.pid)}" for process in found]
    for process in found:
        process.signal(signal.SIGKILL)
    return named


@contextmanager
def isolated_directories(environ: MutableMapping[str, str]) -> Iterator[Directories]:
    """Give a test run and state directories of its own; the image cache stays the user's, since images are dear.

    Fails at the end if a process still has the run directory in its argv or environment.
    """
    # Short, because socket paths are limited: pytest's tmp_path alone may take 100 of the 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    saved = {name: environ.get(name) for name in ("VPCTL_RUN_DIR", "VPCTL_STATE_DIR")}
    environ["VPCTL_RUN_DIR"] = str(root / "r")
    environ["VPCTL_STATE_DIR"] = str(root / "s")
    try:
        yield Directories.from_environment(environ)
    finally:
        left = leftovers(root)
        for name, value in saved.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value
        shutil.rmtree(root, ignore_errors=True)
    assert not left, f"left running in {root}:\n" + "\n".join(left)
