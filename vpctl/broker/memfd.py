"""Memory that QEMUs share: made by the broker, kept under a name for as long as the broker or a QEMU has it.

A memory has no name in any file system, so nobody's death leaves one behind. Its size is sealed: no process that was
given the descriptor can cut it under the others' feet (SIGBUS).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from vpctl.errors import HostError, UsageError
from vpctl.process import memory_file

PREFIX = "vpctl:"
"""What the kernel's name of each memory begins with: /proc/PID/fd shows `/memfd:vpctl:NAME (deleted)`."""

LARGEST = 1 << 62

SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Memfds:
    """The memories of one topology."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def create(self, name: str, size: int) -> bool:
        """See that there is a memory of this name and size; True if it was made now, and is zero.

        The size is a power of two: any other aborts a QEMU whose ivshmem device is given it.
        """
        if not mmap.PAGESIZE <= size <= LARGEST or size & (size - 1):
            raise UsageError(f"memory `{name}`: {size} bytes are no power of two from a page to what a file can have")
        if name in self._fds:
            if (there := os.fstat(self._fds[name]).st_size) != size:
                raise UsageError(f"memory `{name}` has {there} bytes, not {size}")
            return False
        try:
            self._fds[name] = _sealed(name, size)
        except OSError as error:
            raise HostError(f"no memory of {size} bytes for `{name}`: {error.strerror}") from error
        return True

    def fd(self, name: str) -> int:
        """Return the descriptor of a memory; UsageError if there is none of that name."""
        if name not in self._fds:
            raise UsageError(f"no memory named `{name}`")
        return self._fds[name]

    def drop(self, name: str) -> None:
        """Let go of a memory: it lasts as long as somebody else has it. Idempotent."""
        if name in self._fds:
            os.close(self._fds.pop(name))

    def has(self, file: os.stat_result) -> bool:
        """Whether a file is one of these memories."""
        return any(os.path.samestat(file, os.fstat(fd)) for fd in self._fds.values())

    def clear(self, name: str) -> None:
        """Make all of a memory zero, and give its pages back to the host."""
        fd = self.fd(name)
        with mmap.mmap(fd, 0) as view:
            view.madvise(mmap.MADV_REMOVE)

    def write(self, name: str, parts: Iterable[tuple[int, bytes]]) -> None:
        """Write parts, each an offset and bytes, one after the other: the last is seen last."""
        fd = self.fd(name)
        size = os.fstat(fd).st_size
        for offset, content in parts:
            if offset < 0 or offset + len(content) > size:
                raise UsageError(f"memory `{name}` has no {len(content)} bytes at {offset}")
            os.pwrite(fd, content, offset)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a memory; fewer at its end."""
        return os.pread(self.fd(name), min(length, mmap.PAGESIZE), offset)

    def adopt(self, pid: int) -> None:
        """Take over the memories that a process has, a QEMU of a broker that died; what we have stays ours."""
        with contextlib.suppress(OSError):  # it ends just now
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    self._adopt(entry)

    def _adopt(self, entry: Path) -> None:
        target = str(entry.readlink())
        name = target.removeprefix(f"/memfd:{PREFIX}").removesuffix(" (deleted)")
        if target == f"/memfd:{PREFIX}{name} (deleted)" and name not in self._fds:
            self._fds[name] = os.open(entry, os.O_RDWR | os.O_CLOEXEC)

    def names(self) -> Mapping[str, int]:
        """Return what there is: names and sizes."""
        return {name: os.fstat(fd).st_size for name, fd in self._fds.items()}

    def close(self) -> None:
        """Let go of all of it."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def placeholder(name: str) -> str:
    """Return what stands for a memory's path in an argv that the broker is given; see `Broker.spawn`."""
    return f"{{memory:{name}}}"


def inherited_path(fd: int) -> str:
    """Return the path by which a process opens what it has inherited."""
    return f"/proc/self/fd/{fd}"


def _sealed(name: str, size: int) -> int:
    fd = memory_file(PREFIX + name)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
