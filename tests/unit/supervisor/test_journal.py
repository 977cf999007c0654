"""The journal: numbers go on, what a crash cut costs one line, and a full disk costs entries only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from vpctl.supervisor.journal import Journal, read

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
