"""Logs that others write: kept within limits while they are open, and the lives that keep theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vpctl.errors import HostError
from vpctl.log_files import LIVES, limit, older, prune, read_whole, tail
from vpctl.process import running
from vpctl.qemu.probe import find_qemu
from vpctl.qmp.session import connect
from vpctl.supervisor.vm.boot_error import last_lines
from vpctl.wait import until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "qemu.log"


def test_a_log_within_its_limit_stays_as_it_is(log: Path) -> None:
    log.write_bytes(b"x" * 100)
    assert not limit(log, 100)
    assert not limit(log.with_name("missing"), 100)
    assert log.stat().st_size == 100
    assert not older(log).exists()


def test_its_end_is_kept_and_its_writer_goes_on(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 500 + b"b" * 100)
        assert limit(log, 100)
        assert (older(log).read_bytes(), log.read_bytes()) == (b"b" * 100, b"")
        writer.write(b"c\n")
        assert log.read_bytes() == b"c\n"  # and no hole before it
        assert read_whole(log) == "b" * 100 + "c\n"
        writer.write(b"d" * 100)
        assert limit(log, 100)
    assert older(log).read_bytes() == b"d" * 100


def test_its_last_bytes_are_found_before_and_after_a_cut(log: Path) -> None:
    assert tail(log, 100) == b""
    log.write_bytes(b"one\ntwo\n")
    assert (tail(log, 4), tail(log, 100)) == (b"two\n", b"one\ntwo\n")
    assert limit(log, 6)
    assert last_lines(log, 15) == ["e", "two"]
    with log.open("ab") as writer:
        writer.write(b"\x1b[1mthree\n")
    assert (tail(log, 6), tail(log, 12)) == (b"three\n"[-6:], b"o\n\x1b[1mthree\n"[-12:])
    assert last_lines(log, 2) == ["two", "three"]


def test_where_nothing_can_be_kept_the_log_is_cut_all_the_same(log: Path) -> None:
    log.write_bytes(b"x" * 200)
    older(log).mkdir()  # a place that no file can take
    assert limit(log, 100)
    assert log.read_bytes() == b""
    assert sorted(path.name for path in log.parent.iterdir()) == ["qemu.log", "qemu.log.1"]


def test_a_process_that_writes_without_pause_is_kept_within_the_limit(log: Path) -> None:
    # 16 bytes at a time: a write across two pages is seen by halves, and is left at half when its writer is killed.
    source = "import itertools, os\nfor i in itertools.count(): os.write(1, b'%015d\\n' % i)"
    with log.open("ab") as output, subprocess.Popen([sys.executable, "-c", source], stdout=output) as writer:
        cuts = 0
        while cuts < 20:
            cuts += limit(log, 64_000)
            assert writer.poll() is None
        writer.kill()
    limit(log, 64_000)
    assert log.stat().st_size <= 64_000
    # All lines are whole, in order, and none is there twice.
    lines = read_whole(log).splitlines()
    assert {len(line) for line in lines} == {15}
    numbers = [int(line) for line in lines]
    assert numbers == sorted({*numbers})
    assert numbers[0] > 0


async def test_qemu_goes_on_at_the_beginning_of_a_log_that_was_cut(tmp_path: Path) -> None:
    try:
        qemu = find_qemu(None)
    except HostError as error:
        pytest.skip(error.message)
    log, path = tmp_path / "serial.log", tmp_path / "qmp"
    chardev = f"socket,id=q,path={path},server=on,wait=off,logfile={log},logappend=on"
    argv = [*qemu, "-M", "none", "-display", "none", "-nodefaults", "-chardev", chardev, "-mon", "q,mode=control"]
    async with running(argv, grace=1.0), connect(path, vm="vm1", timeout=30.0) as session:
        assert log.stat().st_size > 0  # what QEMU sends on a character device is what it logs
        assert limit(log, 1)
        await session.execute("query-status")

        # QEMU logs what it has sent once it has sent it: even the answer before the cut may come after it.
        async def logged() -> bool | None:
            answers = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]
            return any("running" in answer["return"] for answer in answers) or None

        await until(logged, timeout=30, what="the answer in the log")
        await session.execute("quit")


def lives(directory: Path, statuses: dict[int, int | None]) -> None:
    for number, status in statuses.items():
        life = directory / str(number)
        life.mkdir()
        (life / "serial.log").write_text("said")
        if status is not None:
            (life / "exit.json").write_text(json.dumps({"status": status}))


def left(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_few_lives_keep_their_logs(tmp_path: Path) -> None:
    lives(tmp_path, dict.fromkeys(range(1, LIVES), -9))
    prune(tmp_path, present=LIVES)
    assert left(tmp_path) == list(range(1, LIVES))


def test_lives_that_ended_well_go_first_and_the_newest_stay(tmp_path: Path) -> None:
    lives(tmp_path, {1: -6, 2: 0, 3: -9, 4: 0, 5: 1, 6: None, 7: 0, 8: 0})
    prune(tmp_path, present=9, lives=7, newest=2)
    assert left(tmp_path) == [1, 3, 5, 6, 7, 8]
    prune(tmp_path, present=9, lives=6, newest=2)
    assert left(tmp_path) == [3, 5, 6, 7, 8]
    prune(tmp_path, present=9, lives=3, newest=2)
    assert left(tmp_path) == [7, 8]


def test_a_thousand_crashes_leave_as_many_directories_as_a_few(tmp_path: Path) -> None:
    for number in range(1, 60):
        prune(tmp_path, present=number)
        lives(tmp_path, {number: -11})
    assert left(tmp_path) == list(range(50, 60))


def test_what_is_no_life_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    prune(tmp_path, present=1, lives=1, newest=0)
    prune(tmp_path / "missing", present=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
