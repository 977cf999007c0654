"""Who is at the other end of a unix socket: no guest's QEMU may give orders to the broker or the supervisor.

A QEMU runs as the same user as they do, and may connect to any socket (its own chardevs do): without a look at who
asks, one that its guest has taken over would have the broker start what `-sandbox spawn=deny` denies it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from pathlib import Path

from vpctl.process_record import SUPERVISOR, recorded
from vpctl.rundir import RunDir

_UCRED = struct.Struct("3i")
"""pid, uid and gid: unix(7), SO_PEERCRED."""

MOST_ANCESTORS = 64


def peer_pid(connection: socket.socket) -> int:
    """Return the pid of the process that connected; 0 if it is in a pid namespace that this process does not see."""
    pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)


def confined(rundir: RunDir) -> set[int]:
    """Return the pids of all topologies' QEMUs, as their brokers wrote them down."""
    records = rundir.all_processes()
    return {child.process.pid for path in records for child in recorded(path) if child.name != SUPERVISOR}


def belongs_to(pid: int, processes: Collection[int]) -> bool:
    """Whether a process is one of these, comes from one, or is in the session of one; True if it is gone already.

    A process that leaves its session and outlives its parents is not known by this: QEMU's sandbox lets none be made.
    """
    asks = pid
    for _ in range(MOST_ANCESTORS):
        if pid in processes:
            return True
        if pid <= 1:
            return False
        try:
            # What counts begins after the last parenthesis: state, parent, process group, session (proc(5)).
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            # Another user's process, sshd for instance, may be hidden (hidepid): what has come by that is no QEMU's.
            return pid == asks
        if int(fields[3]) in processes:
            return True
        pid = int(fields[1])
    return True


def may_ask(connection: socket.socket, rundir: RunDir) -> bool:
    """Whether the process at the other end may give orders: any of this user's but QEMUs and what comes from one."""
    return not belongs_to(peer_pid(connection), confined(rundir))
