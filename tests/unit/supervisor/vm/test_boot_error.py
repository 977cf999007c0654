"""The error of a boot that failed: what its reader wants to see, and who has to act."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpctl.errors import HostError, QmpError, ReadyTimeoutError, VerificationError, VpctlError
from vpctl.supervisor.vm.boot_error import boot_error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HostError("no memory", hint="buy some"), HostError),
        (QmpError("vm1: no"), QmpError),
        (VerificationError("nothing came"), ReadyTimeoutError),
    ],
)
def test_an_error_of_the_host_or_of_qmp_stays_one_and_any_other_is_a_boot_that_took_too_long(
    tmp_path: Path, error: VpctlError, kind: type[VpctlError]
) -> None:
    told = boot_error(error, vm="vm1", stage="kernel", logs=tmp_path)
    assert type(told) is kind
    assert told.message == f"`vm1`: boot stage `kernel`: {error.message}"
    assert told.hint == (error.hint or f"logs are in {tmp_path}")


def test_what_qemu_and_the_guest_said_last_is_shown_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "qemu.log").write_text("qemu: no\n", encoding="utf-8")
    (tmp_path / "serial.log").write_text("".join(f"\x1b[1mline {n}\r\n" for n in range(20)), encoding="utf-8")
    told = boot_error(ReadyTimeoutError("no ssh"), vm="vm1", stage=None, logs=tmp_path)
    assert told.message == "`vm1`: no ssh"
    assert told.details is not None
    first, *serial = told.details.split("\nlast serial lines:\n")
    assert first == "QEMU said:\n  qemu: no"
    lines = serial[0].splitlines()
    assert lines[:15] == [f"  line {n}" for n in range(5, 20)]
    assert lines[15:] == [f"its command line is in {tmp_path / 'argv'}"]
