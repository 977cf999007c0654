"""What people see: plain in a pipe, no colour where none is wanted, errors with their place and hint."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_run, made_topology
from vpctl.cli import check, events, plan, recover, status, up
from vpctl.cli.view import progress, render
from vpctl.errors import HostError, Problem, TopologyError, VpctlError
from vpctl.log import Log
from vpctl.rundir import RunDir

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(table: Any, stream: io.StringIO | None = None) -> str:
    stream = stream if stream is not None else io.StringIO()
    render.console(stream).print(table)
    return stream.getvalue()


TABLE = [("vm1", "ready"), ("vm2", "crashed")]


def test_a_table_in_a_pipe_is_plain_and_its_lines_are_whole() -> None:
    text = shown(render.table(("vm", "state"), [*TABLE, ("x" * 100, "y" * 100)]))
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    assert lines == [["VM", "STATE"], ["vm1", "ready"], ["vm2", "crashed"], ["x" * 100, "y" * 100]]


def test_a_terminal_has_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert COLOUR.search(shown(render.table(("vm", "state"), TABLE), Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(render.table(("vm", "state"), TABLE), Terminal())
    assert not COLOUR.search(text)
    assert "crashed" in text


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    assert "[red]x[/red]" in shown(render.table(("a",), [("[red]x[/red]",)]))


@pytest.mark.parametrize(("term", "ci", "live_"), [("xterm", "", True), ("dumb", "", False), ("xterm", "1", False)])
def test_output_is_live_on_a_terminal_that_can_and_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, term: str, ci: str, live_: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("CI", ci)
    assert render.is_live(Terminal()) is live_
    assert render.is_live(io.StringIO()) is False


PROBLEMS = [
    Problem(message="unknown key `vm`", file="p.yaml", line=3, column=1, hint="did you mean `vms`?"),
    Problem(message="no VMs", file="p.yaml", line=1, column=1),
]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (HostError("no disk"), ["error: no disk"]),
        (HostError("no disk", hint="buy one"), ["error: no disk", "hint: buy one"]),
        (
            VpctlError("bad", hint="h", where="f:1:2", details="one\ntwo"),
            ["error: f:1:2: bad", "  one", "  two", "hint: h"],
        ),
        (
            TopologyError(PROBLEMS),
            ["error: p.yaml:3:1: unknown key `vm`", "hint: did you mean `vms`?", "error: p.yaml:1:1: no VMs"],
        ),
    ],
)
def test_an_error_is_a_sentence_its_details_and_a_hint(error: VpctlError, lines: list[str]) -> None:
    assert render.error_lines(error) == lines


@pytest.mark.parametrize(
    ("type_", "attributes", "text"),
    [
        ("vm.state", {"state": "ready", "generation": 1, "reason": None}, "state=ready generation=1"),
        ("qmp.event", {"event": "STOP", "data": {}}, "STOP"),
        ("qmp.event", {"event": "DEVICE_DELETED", "data": {"device": "d"}}, 'DEVICE_DELETED {"device": "d"}'),
        (
            "qmp.command",
            {"command": "device_del", "arguments": {"id": "d"}, "outcome": {"return": {}}, "ms": 1.26},
            "device_del d → ok (1.3 ms)",
        ),
        (
            "qmp.command",
            {"command": "cont", "arguments": {}, "outcome": {"timeout": 10.0}, "ms": 10_000.0},
            'cont → {"timeout": 10.0} (10000 ms)',
        ),
        (
            "qmp.command",
            {"command": "set_link", "arguments": {"name": "n", "up": False}, "outcome": {"return": {}}, "ms": 10.4},
            "set_link n off → ok (10 ms)",
        ),
        ("fault", {"fault": "qemu-exit", "generation": 1, "reason": "QEMU was killed"}, "qemu-exit: QEMU was killed"),
        ("fault", {"fault": "broker-exit"}, "fault=broker-exit"),
        (
            "recovery.step",
            {"name": "plug", "target": "vm2/lan0.g2", "at_ms": 1.0, "ms": 61.4, "ok": True},
            "plug vm2/lan0.g2 → ok (61 ms)",
        ),
        (
            "recovery.step",
            {"name": "boot", "target": "vm1", "at_ms": 1.0, "ms": 2.0, "ok": False},
            "boot vm1 → failed (2.0 ms)",
        ),
        ("recovery.step", {"attempt": 1, "of": 3, "error": "no"}, "attempt=1 of=3 error=no"),
        (
            "recovery.end",
            {"fault": "qemu-exit", "ok": True, "total_ms": 1234.5, "steps": []},
            "qemu-exit: ok, 1234 ms",
        ),
        ("recovery.end", {"fault": "qemu-exit", "ok": False, "total_ms": 2.0}, "qemu-exit: failed, 2 ms"),
        ("command", {"command": "up", "error": "no"}, "command=up error=no"),
    ],
)
def test_a_journal_entry_is_one_line(type_: str, attributes: dict[str, Any], text: str) -> None:
    assert events.summary(type_, attributes) == text
    entry = {"time": 1000.25, "seq": 12, "type": type_, "vm": "vm1", "attributes": attributes}
    line = events.line(entry)
    assert line.endswith(text)
    assert "\n" not in line
    assert re.match(r"\d\d:\d\d:\d\d\.250   12 " + re.escape(type_) + " +vm1 ", line)


STEP = {"name": "plug", "target": "vm2/lan0.g2", "at_ms": 1.0, "ms": 61.4, "ok": True}
ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "qmp", "state": "begin"}}, ""),
    ({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "qmp", "state": "end", "ms": 12.3}}, r"qmp \(12 ms\)"),
    ({"type": "vm.state", "vm": "vm1", "attributes": {"state": "crashed", "generation": 1}}, "crashed"),
    ({"type": "link.state", "link": "lan0", "attributes": {"state": "up", "generation": 1}}, "lan0 +up"),
    ({"type": "fault", "vm": "vm1", "attributes": {"fault": "qemu-exit", "reason": "killed"}}, "qemu-exit killed"),
    ({"type": "fault", "attributes": {"fault": "broker-exit"}}, "vpctl +broker-exit"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": STEP}, r"vm2/lan0.g2 +plug \(61 ms\)"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": {**STEP, "ok": False}}, r"plug failed \(61 ms\)"),
    ({"type": "recovery.step", "vm": "vm1", "attributes": {**STEP, "name": "boot"}}, ""),
    (
        {"type": "recovery.step", "vm": "vm1", "attributes": {"attempt": 1, "of": 3, "error": "no"}},
        "attempt 1 of 3: no",
    ),
    (
        {
            "type": "recovery.step",
            "attributes": {"name": "start-broker", "target": "broker", "ok": False, "error": "no"},
        },
        "vpctl +start-broker failed: no",
    ),
    ({"type": "recovery.end", "vm": "vm1", "attributes": {"ok": True}}, ""),
    ({"type": "check", "link": "lan0", "attributes": {"ok": True}}, ""),
    ({"type": "command", "attributes": {"command": "take-over", "adopted": []}}, ""),
]


@pytest.mark.parametrize(("entry", "text"), ENTRIES)
def test_progress_shows_what_matters_of_every_entry_that_the_supervisor_writes(
    entry: dict[str, Any], text: str
) -> None:
    stream = io.StringIO()
    progress.stages(Log(stream)).take(entry)
    assert re.search(text, stream.getvalue())
    assert bool(stream.getvalue()) is bool(text)
    progress.stages(progress.LiveLog(Terminal())).take(entry)


def test_a_live_table_redraws_its_rows_in_place() -> None:
    stream = Terminal()
    view = progress.stages(progress.LiveLog(stream))
    view.take({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "process", "state": "begin"}})
    view.take({"type": "vm.state", "vm": "vm1", "attributes": {"stage": "process", "state": "end", "ms": 40.0}})
    assert stream.getvalue().count("\x1b[2A") == 1
    assert "0.04 s" in stream.getvalue()


RUN = made_run(made_topology(("lan0", "vm1", "vm2")))
RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))


def test_a_plan_shows_every_command_line_and_every_hotplug_step() -> None:
    data = plan.plan_data(RUN, RUNDIR)
    assert [vm["name"] for vm in data["vms"]] == ["vm1", "vm2"]
    steps = [(step["vm"], step["execute"]) for step in data["links"][0]["steps"]]
    assert [name for vm, name in steps if vm == "vm1"] == ["netdev_add", "set_link", "device_add"]
    assert [name for vm, name in steps if vm == "vm2"] == ["netdev_add", "device_add"]
    text = plan.plan_text(data)
    assert text.count("qemu-system-x86_64 \\\n  -name") == 2
    assert "# link lan0: stream, 10.77.0.0/30, mtu 1500: vm1 10.77.0.1/30 " in text
    assert 'vm1  {"execute": "netdev_add", ' in text


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1), min_size=1))
def test_a_command_line_that_is_shown_can_be_pasted(argv: list[str]) -> None:
    assert shlex.split(plan.shell_lines(argv).replace("\\\n", "")) == argv or any("\\\n" in word for word in argv)


STATUS: dict[str, Any] = {
    "vms": [
        {
            **{"name": "vm1", "state": "ready", "pid": 12, "accelerator": "tcg", "qemu_version": "7.2.22"},
            **{"generation": 2, "ssh": {"host": "127.0.0.1", "port": 40022}},
        },
        {
            **{"name": "vm2", "state": "crashed", "pid": None, "accelerator": "tcg", "qemu_version": "7.2.22"},
            **{"generation": 1, "ssh": {"host": "127.0.0.1", "port": None}},
        },
    ],
    "links": [
        {
            **{"name": "lan0", "kind": "stream", "state": "down", "generation": 1},
            "endpoints": [{"vm": "vm1", "address": "10.0.0.1/30"}, {"vm": "vm2", "address": "10.0.0.2/30"}],
        }
    ],
}
CHECKS = [{"link": "lan0", "ok": True, "rtt_ms": 0.5}, {"link": "lan0", "ok": True, "rtt_ms": 1.25}]


def test_status_has_a_row_for_each_vm_and_link() -> None:
    rows = [line.split() for line in shown(status.status_table(STATUS)).splitlines()]
    assert ["vm1", "ready", "12", "tcg", "7.2.22", "2", "127.0.0.1:40022"] in rows
    assert ["vm2", "crashed", "-", "tcg", "7.2.22", "1", "-"] in rows
    assert ["lan0", "stream", "down", "1", "vm1", "10.0.0.1/30", "vm2", "10.0.0.2/30"] in rows
    assert not status.is_well(STATUS)


def test_status_tells_why_something_is_not_well() -> None:
    assert "WHY" not in shown(status.status_table(STATUS))
    link = {**STATUS["links"][0], "reason": "vm2 has set its interface down"}
    vm = {**STATUS["vms"][1], "reason": "QEMU was killed by SIGKILL"}
    lines = shown(status.status_table({**STATUS, "vms": [STATUS["vms"][0], vm], "links": [link]})).splitlines()
    assert sum(line.rstrip().endswith("WHY") for line in lines) == 2
    assert any(line.startswith("lan0") and "vm2 has set its interface down" in line for line in lines)
    assert any(line.startswith("vm2") and "QEMU was killed by SIGKILL" in line for line in lines)


def test_what_was_verified_is_shown_with_its_slowest_answer() -> None:
    assert "both ways, rtt 1.25 ms" in shown(status.status_table(STATUS, checks=CHECKS))
    text = shown(status.status_table(STATUS, checks=[CHECKS[0], {"link": "lan0", "ok": False, "rtt_ms": None}]))
    assert "both ways" not in text
    assert "vm2 10.0.0.2/30  no" in text


def test_what_users_have_made_of_interfaces_is_shown_and_what_could_not_be_proven() -> None:
    ends = [{**STATUS["links"][0]["endpoints"][0], "use": "port of bond0"}, STATUS["links"][0]["endpoints"][1]]
    link = {**STATUS["links"][0], "reason": None, "endpoints": ends}
    unproven = {
        "link": "lan0",
        "ok": True,
        "loss_percent": None,
        "rtt_ms": None,
        "not_provable": "vm1: port of bond0",
    }
    text = shown(status.status_table({**STATUS, "links": [link]}, checks=[unproven, unproven]))
    assert "not provable: vm1: port of bond0" in text
    assert text.splitlines()[-1].rstrip().endswith("vm1: port of bond0")
    checked = {"link": "lan0", "ok": True, "tests": [], "not_checked": "vm1: in another network namespace"}
    assert "not checked  vm1: in another network namespace" in shown(check.check_table({"links": [checked]}))


def test_up_says_which_link_carries_no_packets_and_ends_with_1() -> None:
    check = {"link": "lan0", "from": "vm1", "to": "vm2", "ok": False, "rtt_ms": None, "reason": "no reply"}
    result = up.up_result({**STATUS, "checks": [check]})
    assert result.exit_code == 1
    (error,) = result.errors
    assert error.message == "link `lan0`: no packets from `vm1` to `vm2`: no reply"
    assert error.hint == "vpctl check --link lan0"


def test_a_check_names_the_sizes_that_failed() -> None:
    base = {"from": "a", "to": "b", "protocol": "udp", "sent": 4, "received": 4, "corrupt": 0, "ok": True}
    bad = {**base, "size": 65507, "received": 3, "ok": False}
    tests = [{**base, "size": 1}, bad, {**base, "protocol": "tcp", "size": 65536, "sent": 1, "received": 1}]
    rows = [
        line.split() for line in shown(check.check_table({"links": [{"link": "lan0", "tests": tests}]})).splitlines()
    ]
    assert rows[1] == [
        *["lan0", "a", "b", "udp", "1..65507", "8", "7", "0", "failed", "65507", "B:", "lost", "or", "corrupt"]
    ]
    assert rows[2] == [*["lan0", "a", "b", "tcp", "65536", "1", "1", "0", "ok"]]


def test_a_recovery_shows_its_steps_its_links_and_its_sums() -> None:
    times = {"detect_ms": 12.0, "survivor_ms": 80.0, "boot_ms": 900.0, "total_ms": 1000.0, "overhead_ms": 100.0}
    links = [
        {"link": "lan0", "ok": True, "outage_ms": 1000.0, "policy": "relink"},
        {"link": "wan0", "ok": False, "outage_ms": None, "policy": None},
    ]
    report = {"vm": "vm1", "fault": "qemu-exit", "policy": "replug", "steps": [STEP], **times, "links": links}
    text = shown(recover.recovery_table(report))
    assert "vm1: qemu-exit, recovered by replug: detected after 12 ms, " in text
    assert "total 1000 ms, overhead 100 ms" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "61", "plug", "vm2/lan0.g2", "ok"] in rows
    assert ["lan0", "relink", "ok", "1000"] in rows, "the policy by which it was repaired, whatever was asked for"
    assert ["wan0", "-", "failed", "-"] in rows
    assert "nothing was done" in shown(recover.recovery_table({"vm": "vm1", "healthy": True}))
