"""What can happen to a VM, told apart by its signs. Pure.

The signs were seen on QEMU 7.2: a guest that powers off ends QEMU with 0 after SHUTDOWN guest-shutdown; a panic with
`-action panic=pause` gives GUEST_PANICKED and leaves QEMU paused; a QEMU that was killed or aborted sends nothing.
What no event tells of is found by `detect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """A fault, in the words of the user contract."""

    QEMU_EXIT = "qemu-exit"
    GUEST_PANIC = "guest-panic"
    GUEST_HANG = "guest-hang"
    GUEST_POWEROFF = "guest-poweroff"
    GUEST_REBOOT = "guest-reboot"
    QEMU_STOPPED = "qemu-stopped"
    QMP_SILENT = "qmp-silent"
    BACKEND_LOST = "backend-lost"
    DEVICE_LOST = "device-lost"
    DRIVER_WEDGED = "driver-wedged"
    BROKER_EXIT = "broker-exit"


class How(StrEnum):
    """Ways to crash a VM on purpose."""

    KILL = "kill"
    PANIC = "panic"
    HANG = "hang"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """A fault that is to be recovered: what, when it was, when it was seen (CLOCK_MONOTONIC of the host)."""

    fault: Fault
    at: float
    detected_at: float

    def as_json(self) -> dict[str, Any]:
        """Return it as a successor reads it."""
        return {"fault": str(self.fault), "at": self.at, "detected_at": self.detected_at}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """Read what `as_json` wrote."""
        return cls(fault=Fault(data["fault"]), at=data["at"], detected_at=data["detected_at"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What QEMU said before it ended: the reason of SHUTDOWN, and whether the guest panicked."""

    shutdown_reason: str | None = None
    panicked: bool = False

    def after(self, event: Mapping[str, Any]) -> Signs:
        """Return the signs with one more QMP event taken in."""
        if event["event"] == "SHUTDOWN":
            return Signs(shutdown_reason=event["data"].get("reason", "unknown"), panicked=self.panicked)
        if event["event"] == "GUEST_PANICKED":
            return Signs(shutdown_reason=self.shutdown_reason, panicked=True)
        return self


def fault_of_exit(status: int | None, signs: Signs) -> Fault:
    """Return what the end of a QEMU means. An unknown status (None) without SHUTDOWN counts as a crash."""
    if signs.panicked:
        return Fault.GUEST_PANIC
    if signs.shutdown_reason == "guest-shutdown" and status in (0, None):
        return Fault.GUEST_POWEROFF
    if signs.shutdown_reason == "guest-reset" and status in (0, None):
        # A reset is an exit only while the guest boots: its kernel has panicked before pvpanic's driver was there.
        return Fault.GUEST_PANIC
    return Fault.QEMU_EXIT
