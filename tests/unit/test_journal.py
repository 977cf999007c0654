"""The journal: numbers go on, what a crash cut costs one line, and a full disk costs entries only."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.reading import bytes_read
from vpctl.journal import TAIL_BYTES, Journal, Reader, last_seq, read, segments

TYPES = [
    *("vm.state", "link.state", "qmp.event", "qmp.command"),
    *("fault", "recovery.step", "recovery.end", "check", "command"),
]
ENTRY = {
    "type": "object",
    "required": ["time", "seq", "type", "attributes"],
    "properties": {
        "time": {"type": "number"},
        "seq": {"type": "integer", "minimum": 1},
        "type": {"enum": TYPES},
        "vm": {"type": "string"},
        "link": {"type": "string"},
        "attributes": {"type": "object"},
    },
    "additionalProperties": False,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def seqs(path: Path) -> list[int]:
    return [entry["seq"] for entry in read(path)]


def test_entries_are_lines_of_the_contracts_shape(path: Path) -> None:
    journal = Journal(path)
    journal.write("vm.state", vm="vm1", attributes={"state": "ready"})
    journal.write("link.state", link="lan0")
    journal.write("fault", vm="vm1", attributes={"path": Path("/x")})
    journal.qmp_event("vm1", {"event": "STOP", "timestamp": {}})
    journal.qmp_command("vm1", "device_del", {"id": "d"}, {"return": {}}, 1.26)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        Draft202012Validator(ENTRY).validate(entry)
    assert entries == list(read(path))
    assert entries[2]["attributes"] == {"path": "/x"}
    assert entries[3]["attributes"] == {"event": "STOP", "data": {}}
    assert entries[4]["attributes"]["ms"] == 1.3


def test_numbers_go_on_where_the_supervisor_before_stopped(path: Path) -> None:
    Journal(path).write("command")
    Journal(path).write("command")
    later = Journal(path)
    later.write("command")
    later.write("command")
    assert seqs(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("cut", [b'{"time": 1, "seq": 2, "ty', b"\0\0\0\0", b'{"a": "\xc3', b"7"])
def test_a_line_that_a_crash_cut_costs_itself_and_not_the_next_one(path: Path, cut: bytes) -> None:
    Journal(path).write("command")
    with path.open("ab") as stream:
        stream.write(cut)
    assert seqs(path) == [1]
    Journal(path).write("fault")
    assert seqs(path) == [1, 2]


def test_a_missing_journal_has_no_entries(path: Path) -> None:
    assert list(read(path)) == []


def test_a_full_disk_loses_entries_but_neither_listeners_nor_numbers(path: Path) -> None:
    heard: list[Any] = []
    journal = Journal(path)
    journal.listeners.append(lambda entry: heard.append(entry["seq"]))
    path.symlink_to("/dev/full")
    journal.write("command")
    journal.write("command")
    path.unlink()  # the disk has room again
    journal.write("command")
    assert heard == [1, 2, 3]
    assert seqs(path) == [3]


def test_the_health_watchs_own_commands_are_kept_only_when_they_fail(path: Path) -> None:
    journal = Journal(path)
    journal.qmp_command("vm1", "ringbuf-read", {}, {"return": ""}, 1.0)
    journal.qmp_command("vm1", "query-status", {}, {"timeout": 10}, 10_000.0)
    assert [entry["attributes"]["command"] for entry in read(path)] == ["query-status"]


def small(path: Path, kept: int = 3) -> Journal:
    """Return a journal whose segments have some ten entries each."""
    return Journal(path, segment_bytes=800, segments=kept)


def test_full_segments_are_put_aside_and_the_oldest_ones_removed(path: Path) -> None:
    journal = small(path)
    for _ in range(500):
        journal.write("command", attributes={"command": "up"})
    assert len(segments(path)) == 3
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 5 * 1000
    kept = seqs(path)
    assert kept == list(range(kept[0], 501))
    assert int(segments(path)[0].name.split(".")[1]) == kept[0]


def test_numbers_go_on_over_segments(path: Path) -> None:
    for _ in range(100):
        small(path, kept=100).write("command", attributes={"command": "up"})  # another supervisor each time
    assert len(segments(path)) > 5
    assert seqs(path) == list(range(1, 101))
    path.unlink()  # killed between the renaming and the next segment
    before = last_seq(path)
    small(path).write("command")
    assert seqs(path)[-1] == before + 1


def test_the_last_number_is_found_without_reading_what_is_before_it(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b'{"seq": 1}\n')
        stream.truncate(64 << 20)
        stream.seek(0, os.SEEK_END)
        stream.write(b'\n{"seq": 7}\n{"seq": 8, "attrib')
    with bytes_read() as count:
        assert last_seq(path) == 7
        Journal(path).write("command")
        assert last_seq(path) == 8
    assert count() < 1 << 20


def test_an_entry_longer_than_a_tail_is_found_whole(path: Path) -> None:
    journal = Journal(path)
    journal.write("command")
    journal.write("command", attributes={"command": "x" * 5 * TAIL_BYTES})
    assert last_seq(path) == 2
    assert Journal(path)._seq == 2


def test_a_reader_goes_on_where_it_was(path: Path) -> None:
    with Reader(path) as reader:
        assert list(reader.new()) == []  # there is no journal yet
        journal = Journal(path)
        journal.write("command", attributes={"command": "x" * 100_000})
        assert [entry["seq"] for entry in reader.new()] == [1]
        with bytes_read() as count:
            journal.write("fault")
            assert [entry["type"] for entry in reader.new()] == ["fault"]
            assert list(reader.new()) == []
        assert count() < 10_000


def test_a_reader_at_the_end_sees_what_comes_and_not_what_was(path: Path) -> None:
    with Reader.at_end(path) as reader:
        assert list(reader.new()) == []
        Journal(path).write("command")
        assert [entry["seq"] for entry in reader.new()] == [1]
    with path.open("ab") as stream:
        stream.write(b'{"seq": 2, "ty')
        stream.flush()
        with Reader.at_end(path) as reader:
            assert list(reader.new()) == []
            stream.write(b'pe": "fault"}\n')
            stream.flush()
            assert list(reader.new()) == [{"seq": 2, "type": "fault"}]


@given(steps=st.lists(st.sampled_from(["write", "long", "read", "again", "cut"]), max_size=120))
def test_a_reader_misses_nothing_and_repeats_nothing(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.jsonl"
        journal, written, seen = small(path, kept=200), 0, []
        with Reader(path) as reader:
            for step in [*steps, "read"]:
                match step:
                    case "write" | "long":
                        journal.write("command", attributes={"command": "x" * (900 if step == "long" else 9)})
                        written += 1
                    case "read":
                        seen += [entry["seq"] for entry in reader.new()]
                    case "again":
                        journal = small(path, kept=200)
                    case "cut":  # by a supervisor that is killed
                        with path.open("ab") as stream:
                            stream.write(b'{"seq": 9')
                        journal = small(path, kept=200)
            assert seen == list(range(1, written + 1)) == seqs(path)


def test_a_reader_beside_a_writer_sees_each_entry_once(path: Path) -> None:
    count = 3000
    journal = small(path, kept=count)

    def write_all() -> None:
        for _ in range(count):
            journal.write("command")

    writer = threading.Thread(target=write_all)
    seen: list[int] = []
    with Reader(path) as reader:
        writer.start()
        while writer.is_alive():
            seen += [entry["seq"] for entry in reader.new()]
        seen += [entry["seq"] for entry in reader.new()]
    assert seen == list(range(1, count + 1))


def test_a_reader_that_is_too_slow_goes_on_with_what_is_left(path: Path) -> None:
    journal = small(path)
    with Reader(path) as reader:
        journal.write("command")
        assert [entry["seq"] for entry in reader.new()] == [1]
        for _ in range(500):
            journal.write("command")
        seen, left = [entry["seq"] for entry in reader.new()], seqs(path)
        assert seen[: -len(left)] == list(range(2, 2 + len(seen) - len(left)))  # the rest of the one it had open
        assert seen[-len(left) :] == left
        journal.write("fault")
        assert [entry["type"] for entry in reader.new()] == ["fault"]
