"""Which topologies run."""

from __future__ import annotations

from vpctl.errors import NotFoundError
from vpctl.process_record import known_broker, known_children
from vpctl.rundir import (
    Directories,
    RunDir,
    is_locked,
)


def is_running(rundir: RunDir) -> bool:
    """Whether a topology has a living broker, or processes that a dead one left."""
    return (
        is_locked(rundir.broker_lock)
        or known_broker(rundir) is not None
        or next(known_children(rundir), None) is not None
    )


def running_topologies(directories: Directories) -> list[str]:
    """Return the names of the topologies that run, sorted."""
    return [name for name in directories.topologies() if is_running(directories.topology(name))]


def require_running(directories: Directories, name: str) -> RunDir:
    """Return a topology's paths; NotFoundError if it does not run."""
    rundir = directories.topology(name)
    rundir.check_host()
    if not is_running(rundir):
        known = ", ".join(f"`{n}`" for n in running_topologies(directories)) or "none"
        raise NotFoundError(f"no topology named `{name}` runs", hint=f"running: {known}; vpctl up FILE starts one")
    return rundir
