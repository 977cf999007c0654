"""Signs and what they mean: the table of what was seen on QEMU 7.2."""

from __future__ import annotations

from typing import Any

import pytest

from vpctl.recovery.faults import Fault, Signs, fault_of_exit

SHUTDOWN = "SHUTDOWN"
PANICKED = {"event": "GUEST_PANICKED", "data": {"action": "pause"}}


def shutdown(reason: str) -> dict[str, Any]:
    return {"event": SHUTDOWN, "data": {"guest": reason.startswith("guest"), "reason": reason}}


@pytest.mark.parametrize(
    ("events", "status", "fault"),
    [
        pytest.param([shutdown("guest-shutdown")], 0, Fault.GUEST_POWEROFF, id="guest powers off"),
        pytest.param([shutdown("guest-shutdown")], None, Fault.GUEST_POWEROFF, id="powers off, broker died before"),
        pytest.param([shutdown("guest-shutdown")], -9, Fault.QEMU_EXIT, id="killed while it shut down"),
        pytest.param([shutdown("guest-shutdown")], 1, Fault.QEMU_EXIT, id="failed while it shut down"),
        pytest.param([PANICKED, {"event": "STOP", "data": {}}], None, Fault.GUEST_PANIC, id="panic, paused"),
        pytest.param([PANICKED, shutdown("guest-panic")], 0, Fault.GUEST_PANIC, id="panic, powered off, exits 0"),
        pytest.param([PANICKED], -9, Fault.GUEST_PANIC, id="panic, then killed by us"),
        pytest.param([], -6, Fault.QEMU_EXIT, id="QEMU aborts"),
        pytest.param([], -9, Fault.QEMU_EXIT, id="QEMU is killed"),
        pytest.param([], -11, Fault.QEMU_EXIT, id="QEMU crashes"),
        pytest.param([], -31, Fault.QEMU_EXIT, id="the sandbox kills QEMU"),
        pytest.param([], 0, Fault.QEMU_EXIT, id="ends without a word"),
        pytest.param([], None, Fault.QEMU_EXIT, id="ends unseen"),
        pytest.param([shutdown("host-signal")], 0, Fault.QEMU_EXIT, id="SIGTERM from outside"),
        pytest.param([shutdown("host-qmp-quit")], 0, Fault.QEMU_EXIT, id="quit over QMP by a person"),
        pytest.param([shutdown("guest-reset")], 0, Fault.GUEST_PANIC, id="panic before pvpanic is loaded"),
        pytest.param([{"event": SHUTDOWN, "data": {}}], 0, Fault.QEMU_EXIT, id="a SHUTDOWN without reason"),
    ],
)
def test_the_end_of_a_qemu_is_named_by_its_signs(
    events: list[dict[str, Any]], status: int | None, fault: Fault
) -> None:
    signs = Signs()
    for event in events:
        signs = signs.after(event)
    assert fault_of_exit(status, signs) is fault


def test_an_event_that_says_nothing_of_an_end_changes_no_sign() -> None:
    signs = Signs(shutdown_reason="guest-shutdown", panicked=True)
    assert signs.after({"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}) is signs
