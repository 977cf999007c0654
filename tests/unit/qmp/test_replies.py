"""What QEMU's refusals mean, in its own words."""

from __future__ import annotations

import pytest

from vpctl.qmp.replies import Meaning, hint, meaning


@pytest.mark.parametrize(
    ("command", "error_class", "text", "expected"),
    [
        ("device_del", "DeviceNotFound", "Device 'n0' not found", Meaning.GONE),
        ("device_del", "GenericError", "Device n0 is already in the process of unplug", Meaning.PENDING),
        (
            "device_del",
            "GenericError",
            "guest is busy (power indicator blinking)",
            Meaning.BUSY,
        ),
        ("chardev-remove", "GenericError", "Chardev 'c1' is busy", Meaning.BUSY),
        ("object-del", "GenericError", "object 'm1' is in use, can not be deleted", Meaning.BUSY),
        ("chardev-remove", "GenericError", "Chardev 'c1' not found", Meaning.GONE),
        ("netdev_add", "GenericError", "Duplicate ID 'n0.net' for netdev", Meaning.DUPLICATE),
        ("device_add", "GenericError", "'nope' is not a valid device model name", Meaning.REFUSED),
        ("device_add", "DeviceNotFound", "Device 'n0' not found", Meaning.REFUSED),
    ],
)
def test_a_refusal_is_read_loosely_and_by_what_was_asked(
    command: str, error_class: str, text: str, expected: Meaning
) -> None:
    assert meaning(command, error_class, text) is expected


def test_a_user_is_told_what_can_be_done_where_that_is_known() -> None:
    assert "vpctl doctor" in (hint("'nope' is not a valid device model name") or "")
    assert "root port takes one device" in (hint("PCI: Only allows plugging into slot 0") or "")
    assert hint("something else") is None
