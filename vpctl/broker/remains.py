"""What a topology's broker, alive or dead, has left to be found: its own process, and QEMUs that are in no record."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from vpctl.errors import HostError
from vpctl.process import ProcessId, find_orphans
from vpctl.rundir import RunDir, host_boot_id, read_json, read_owner


def known_broker(rundir: RunDir) -> ProcessId | None:
    """Return the broker that wrote the record of processes, if it lives and is not this process.

    Its lock says the same where the run directory can be seen; with a /tmp of one's own (PrivateTmp=, pam_namespace,
    a container's) it cannot, and the record in the state directory can.
    """
    record: Any = read_json(rundir.processes)
    try:
        if record["boot_id"] != host_boot_id():
            return None
        broker = ProcessId(pid=int(record["broker"]["pid"]), start_time=int(record["broker"]["start_time"]))
    except (LookupError, TypeError, ValueError):
        return None
    return broker if broker.pid != os.getpid() and broker.is_alive() else None


def require_visible(rundir: RunDir) -> None:
    """Raise HostError if a broker runs whose run directory cannot be seen from here."""
    if read_owner(rundir.run) is None and (broker := known_broker(rundir)) is not None:
        raise HostError(
            f"`{rundir.name}` runs, but its run directory {rundir.run} cannot be seen from here",
            hint=f"process {broker.pid} has a /tmp of its own; `vpctl down {rundir.name}` ends it from here, too",
        )


def orphans(rundir: RunDir, known: Collection[ProcessId] = ()) -> list[ProcessId]:
    """Return the QEMUs of a topology that are in no record: their broker died between their start and its note of it.

    The command line names a socket in the run directory, and they write to a log in the state directory or listen in
    the run directory: other people's editors and the QEMUs of other containers do not. `known` are processes that are
    accounted for, with all that runs in their sessions: a wrapper around QEMU is recorded in its place.
    """
    option = f"path={str(rundir.run).replace(',', ',,')}/"
    found = find_orphans(option, logs=rundir.state / "vms", sockets=rundir.run)
    sessions = {process.pid for process in known}
    return [process for process in found if process not in known and _session(process) not in sessions]


def _session(process: ProcessId) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
