"""What vpctl needs of the host's kernel and limits, beside QEMU, memory and disk; each is tried.

The oldest Linux that has all of it is 5.6 (pidfd_getfd). Containers and sandboxes may lack some of it on a newer one.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpctl.errors import HostError
from vpctl.process import keeps_thread_times, memory_file, try_pidfds

LOOPBACK = "127.0.0.1"

ROOMY_FILES, ROOMY_FILES_PER_VM = 256, 64
"""Open files that are plenty for one topology; so is twice what is needed, where that is more."""

LEAST_FILES = 64
"""What any process of a topology may need, whatever its links are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the doctor has looked at."""

    name: str
    ok: Literal["ok", "warning", "failed"]
    message: str
    remedy: str | None = None


def require_host(files: Mapping[str, int]) -> list[str]:
    """Raise HostError for the first thing without which a topology cannot run here; return warnings.

    `files` is how many open files each of its processes needs, see `open_files`.
    """
    warnings = []
    for finding in examine_host(files):
        if finding.ok == "failed":
            raise HostError(f"{finding.name}: {finding.message}", hint=finding.remedy)
        if finding.ok == "warning":
            warnings.append(f"{finding.name}: {finding.message}")
    return warnings


def examine_host(files: Mapping[str, int]) -> Iterator[Finding]:
    """Try what the kernel has to offer, for processes that need so many open files each."""
    yield _process_descriptors()
    yield _sealed_memory()
    yield _loopback()
    yield thread_times()
    yield open_files(files)


def _process_descriptors() -> Finding:
    name = "process descriptors"
    try:
        complete = try_pidfds()
    except OSError as error:
        message = f"pidfd_open fails: {error.strerror}; processes cannot be told apart and waited for"
        remedy = "Linux 5.6 or later; in a container: a seccomp profile that allows pidfd_open"
        return Finding(name=name, ok="failed", message=message, remedy=remedy)
    if not complete:
        message = "pidfd_getfd fails: `stream` links cannot be kept from freezing a QEMU whose peer is stopped"
        remedy = "Linux 5.6 or later; in a container: a seccomp profile that allows pidfd_getfd"
        return Finding(name=name, ok="warning", message=message, remedy=remedy)
    return Finding(name=name, ok="ok", message="pidfd_open and pidfd_getfd work")


def _sealed_memory() -> Finding:
    name = "shared memory"
    try:
        fd = memory_file("vpctl:trial")
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        finally:
            os.close(fd)
    except OSError as error:
        message = f"no memory whose size can be sealed (memfd_create): {error.strerror}"
        return Finding(name=name, ok="failed", message=message, remedy="Linux 5.6 or later; a sandbox may forbid it")
    return Finding(name=name, ok="ok", message="memory files can be made and sealed")


def _loopback() -> Finding:
    """Connect to oneself: guests are reached by ssh at a port of 127.0.0.1, which a new network namespace lacks."""
    name = "loopback"
    try:
        with socket.socket() as listener, socket.socket() as client:
            listener.bind((LOOPBACK, 0))
            listener.listen(1)
            client.settimeout(5.0)
            client.connect(listener.getsockname())
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{LOOPBACK} cannot be reached ({reason}), by which vpctl logs in to guests"
        return Finding(name=name, ok="failed", message=message, remedy="ip link set lo up")
    return Finding(name=name, ok="ok", message=f"{LOOPBACK} answers")


def thread_times(proc: Path = Path("/proc")) -> Finding:
    """Look whether the kernel tells how long a thread ran and waited: hangs are judged by the guest's own time."""
    name = "thread times"
    if keeps_thread_times(proc):
        return Finding(name=name, ok="ok", message="the kernel keeps them (schedstat)")
    message = "this kernel keeps none (schedstat): hangs are judged by the clock, and a busy host may pass for one"
    remedy = "a kernel with CONFIG_SCHED_INFO; else a longer `health: {heartbeat: …, qmp_timeout: …}`"
    return Finding(name=name, ok="warning", message=message, remedy=remedy)


def open_files(files: Mapping[str, int]) -> Finding:
    """Judge the hard limit: the broker raises the soft one, and every QEMU inherits that.

    `files` tells of each process, by what it is called, how many it has open once everything is up.
    """
    name = "open files"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Finding(name=name, ok="ok", message="no limit")
    process, least = max(files.items(), key=lambda item: item[1], default=("any process", 0))
    least = max(least, LEAST_FILES)
    roomy = max(2 * least, ROOMY_FILES + ROOMY_FILES_PER_VM * len(files))
    remedy = f"ulimit -Hn {roomy}, as root or in /etc/security/limits.conf"
    if hard < least:
        return Finding(
            name=name, ok="failed", message=f"{hard} allowed, {least} are needed by {process}", remedy=remedy
        )
    message = f"{hard} allowed, {roomy} may be needed"
    if hard < roomy:
        return Finding(name=name, ok="warning", message=message, remedy=remedy)
    return Finding(name=name, ok="ok", message=message)
