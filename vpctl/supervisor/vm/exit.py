"""The end of a VM's QEMU, and how it is put in words."""

from __future__ import annotations

from dataclasses import dataclass

from vpctl.process import describe_status
from vpctl.recovery.faults import Signs


@dataclass(frozen=True, kw_only=True, slots=True)
class VmEnd:
    """The end of a generation: QEMU's exit status (None: unknown), what it said before, and when (CLOCK_MONOTONIC).

    `process_ended` is False for a guest that panicked: its QEMU is paused.
    """

    status: int | None
    signs: Signs
    monotonic: float
    process_ended: bool


def describe_end(ended: VmEnd) -> str:
    """Put the end of a generation in words."""
    if ended.signs.panicked:
        return "the guest's kernel panicked"
    reason = ended.signs.shutdown_reason
    if reason == "guest-reset":
        # -action reboot=shutdown and panic=-1: a panic before pvpanic's driver is loaded comes as a reboot.
        return "the guest rebooted during its boot, as a kernel that panics early does"
    if reason is not None:
        return f"QEMU ended: {reason}"
    if ended.status is None:
        return "QEMU ended; its exit status is unknown, since its broker died before it"
    return f"QEMU {describe_status(ended.status)}"
