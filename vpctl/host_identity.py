"""Which host this is: what is written beside a topology's state, so that another host leaves it alone.

A state directory may lie in a home that several hosts mount, and containers of one kernel may share it; processes and
sockets belong to one of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A host, or a container of one: all that share the processes of one boot."""

    name: str
    machine_id: str
    """As machine-id(5) has it; empty where there is none."""
    boot_id: str
    """The kernel's, which no other boot of any host has."""
    pid_namespace: int
    """The inode of /proc/self/ns/pid: containers of one kernel differ in it."""

    def is_same(self, other: Host) -> bool:
        """Whether processes that one has recorded can be judged by the other.

        After a reboot, machine id and name have to agree both: cloned hosts share the one, hosts without a name of
        their own the other.
        """
        if self.boot_id == other.boot_id:
            return self.pid_namespace == other.pid_namespace
        known = self.machine_id or self.name not in ("", "localhost", "localhost.localdomain")
        return bool(known) and (self.machine_id, self.name) == (other.machine_id, other.name)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Host:
        """Read a record; ValueError or LookupError if it is none."""
        name, machine_id, boot_id, namespace = (data[key] for key in cls.__slots__)
        if not (isinstance(name, str) and isinstance(machine_id, str) and isinstance(boot_id, str)):
            raise ValueError("not a host")  # noqa: TRY004 - the caller catches one kind for all bad input
        return cls(name=name, machine_id=machine_id, boot_id=boot_id, pid_namespace=int(namespace))


@functools.cache
def this_host() -> Host:
    """Return the host that this process runs on."""
    return Host(
        name=os.uname().nodename,
        machine_id=_machine_id(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
    )


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError, ValueError):
            text = Path(path).read_text(encoding="ascii").strip()
            if text and text != "uninitialized":
                return text
    return ""
