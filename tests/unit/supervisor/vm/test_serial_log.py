"""The serial log: what this boot has said, read once, and remembered when the log is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reading import bytes_read
from vpctl.log_files import LOG_BYTES
from vpctl.supervisor.vm.serial_log import LOOK_BYTES, SSH_MARK, SerialLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "serial.log"


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(text)


async def test_what_an_earlier_boot_has_written_is_not_of_this_one(path: Path) -> None:
    log = SerialLog(path)
    assert (await log.speaks(), log.size()) == (None, 0)  # QEMU has not made it yet
    append(path, b"Linux\n" + SSH_MARK + b"\n")
    assert await log.speaks()
    assert log.says_ssh()
    log.begin_boot()
    assert await log.speaks() is None
    assert not log.says_ssh()
    append(path, b"Linux\n")
    assert await log.speaks()
    assert not log.says_ssh()
    append(path, SSH_MARK)
    assert log.says_ssh()


def test_a_mark_that_is_written_in_parts_is_seen(path: Path) -> None:
    log = SerialLog(path)
    for byte in SSH_MARK:
        append(path, bytes([byte]))
        said = log.says_ssh()
    assert said


def test_each_look_reads_only_what_was_added(path: Path) -> None:
    append(path, b"x" * (3 << 20))
    log = SerialLog(path)
    assert not log.says_ssh()
    with bytes_read() as count:
        for _ in range(50):
            append(path, b"y" * 100)
            assert not log.says_ssh()
    assert count() < 100_000  # from the beginning it would be 150 MB


def test_a_log_longer_than_one_look_is_read_to_its_end(path: Path) -> None:
    append(path, b"x" * (LOOK_BYTES - 3) + SSH_MARK)
    log = SerialLog(path)
    assert not log.says_ssh()
    assert log.says_ssh()


async def test_what_a_boot_has_said_is_remembered_when_the_log_is_cut(path: Path) -> None:
    log = SerialLog(path)
    append(path, SSH_MARK + b"x" * LOG_BYTES)
    log.limit()
    assert log.size() == 0
    assert await log.speaks()
    assert log.says_ssh()


async def test_a_boot_that_begins_after_a_cut_is_a_new_one(path: Path) -> None:
    log = SerialLog(path)
    append(path, b"x" * (LOG_BYTES + 1))
    log.limit()
    log.begin_boot()
    assert await log.speaks() is None
    append(path, SSH_MARK)
    assert await log.speaks()
    assert log.says_ssh()


def test_a_mark_after_a_cut_is_seen(path: Path) -> None:
    log = SerialLog(path)
    append(path, b"x" * (LOG_BYTES + 1))
    log.limit()
    assert not log.says_ssh()
    append(path, b"\n" + SSH_MARK)
    assert log.says_ssh()
