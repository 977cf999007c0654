"""The end of a VM in words."""

from __future__ import annotations

import signal

import pytest

from vpctl.recovery.faults import Signs
from vpctl.supervisor.vm.exit import VmEnd, describe_end


@pytest.mark.parametrize(
    ("signs", "status", "words"),
    [
        (Signs(panicked=True), None, "the guest's kernel panicked"),
        (Signs(shutdown_reason="guest-reset"), 0, "the guest rebooted during its boot, as a kernel that panics"),
        (Signs(shutdown_reason="host-qmp-quit"), 0, "QEMU ended: host-qmp-quit"),
        (Signs(), None, "QEMU ended; its exit status is unknown"),
        (Signs(), -signal.SIGKILL, "QEMU was killed by SIGKILL"),
    ],
)
def test_what_a_qemu_said_before_its_end_counts_for_more_than_its_status(
    signs: Signs, status: int | None, words: str
) -> None:
    assert describe_end(VmEnd(status=status, signs=signs, monotonic=0.0, process_ended=True)).startswith(words)
