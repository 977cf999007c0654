"""Benchmarks of real guests: every workload, kinds in turn, and what becomes of a run in which a guest dies."""

from __future__ import annotations

import gzip
import json
import os
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.vm.commandline import EXAMPLES, Done, Vpctl, kill, until, user

pytestmark = pytest.mark.vm

PAIR = str(EXAMPLES / "pair.yaml")
CHAIN = str(EXAMPLES / "chain.yaml")
WEST, EAST = "west0", "east0"
"""Of the chain: between `left` and `middle`, between `middle` and `right`."""

WORKLOADS = {"ping", "tcp", "cpu", "tcp-bidir", "udp", "pktgen", "outage"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Two kinds compared, each workload once, with all the files that `bench` writes."""
    files = tmp_path_factory.mktemp("bench")
    with user() as vpctl:
        done = vpctl.start(
            *("bench", "--compare-kinds", "stream,dgram", PAIR, "--quick", "--repeats", "1"),
            *("-w", ",".join(WORKLOADS), "-o", str(files / "r.json"), "--junit-xml", str(files / "r.xml")),
        ).wait(limit=300)
        vpctl.assert_nothing_left()
    return done, files


@pytest.fixture(scope="module")
def result(kinds: tuple[Done, Path]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((kinds[1] / "r.json").read_text())
    return data


def test_the_result_meets_its_published_schema(result: dict[str, Any], kinds: tuple[Done, Path]) -> None:
    with user() as vpctl:
        schema = vpctl.run("schema", "bench").data
    jsonschema.validate(result, schema)
    assert result["schema_version"] == 1
    assert result["host"]["cpu"]
    assert {vm["name"] for vm in result["host"]["vms"]} == {"vm1", "vm2"}
    assert all(vm["kernel"] and vm["qemu_version"] and vm["accelerator"] for vm in result["host"]["vms"])


def test_every_workload_has_a_figure_of_every_kind_in_each_direction(result: dict[str, Any]) -> None:
    rows = {(s["kind"], s["workload"], s["from"], s["to"]) for s in result["samples"]}
    for kind in ("stream", "dgram"):
        for workload in WORKLOADS - {"ping"}:
            assert {(kind, workload, "vm1", "vm2"), (kind, workload, "vm2", "vm1")} <= rows
        assert (kind, "ping", "vm1", "vm2") in rows
    assert all(value >= 0 for sample in result["samples"] for value in sample["values"])
    positive = [s for s in result["samples"] if s["workload"] in ("ping", "tcp", "cpu", "tcp-bidir", "pktgen")]
    assert all(sample["median"] > 0 for sample in positive)
    assert all(len(sample["values"]) == 1 for sample in result["samples"])  # the warm-up counts for nothing
    assert result["failures"] == []


def test_raw_outputs_are_kept_beside_the_result_and_show_the_kinds_in_turn(
    result: dict[str, Any], kinds: tuple[Done, Path]
) -> None:
    lines = gzip.decompress((kinds[1] / result["raw"]["file"]).read_bytes()).decode().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == result["raw"]["records"]
    order = [
        (r["round"], r["link"], r["vm"]) for r in records if r["workload"] == "tcp" and "iperf3 -c" in r["command"]
    ]
    assert [entry[1] for entry in order] == [
        "stream",
        "dgram",
        "stream",
        "dgram",
        "dgram",
        "stream",
        "dgram",
        "stream",
    ]
    assert [entry[0] for entry in order] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_junit_has_a_case_for_each_link_and_workload_with_its_own_time(
    result: dict[str, Any], kinds: tuple[Done, Path]
) -> None:
    root = ET.parse(kinds[1] / "r.xml").getroot()
    cases = list(root.iter("testcase"))
    spent = {(t["link"], t["workload"]): t["seconds"] for t in result["timings"]}
    assert len(cases) == 2 * len(WORKLOADS)
    assert not list(root.iter("failure"))
    assert sum(float(case.get("time", "0")) for case in cases) == pytest.approx(sum(spent.values()), rel=0.01)


def test_the_table_fits_80_columns_and_shows_both_kinds(kinds: tuple[Done, Path]) -> None:
    # Without a terminal there is no limit; what a person sees at 80 is checked with golden files.
    text = kinds[0].stdout
    assert "stream" in text
    assert "dgram" in text
    assert "\x1b" not in text


@pytest.fixture(scope="module")
def running() -> Iterator[Vpctl]:
    """A chain of three VMs that runs."""
    with user() as vpctl:
        vpctl.run("up", CHAIN)
        yield vpctl


def measured(vpctl: Vpctl, name: str, *words: str, status: int | None = 0) -> tuple[Path, dict[str, Any]]:
    """Bench what runs; return the result's file and content."""
    path = vpctl.files / f"{name}.json"
    vpctl.start("bench", "--quick", "-o", str(path), *words).wait(status, limit=240)
    return path, json.loads(path.read_text())


def boot_ids(vpctl: Vpctl, *vms: str) -> list[str]:
    return [vpctl.guest(vm, "cat /proc/sys/kernel/random/boot_id") for vm in vms]


def test_a_slow_down_in_a_guest_is_found_and_no_change_is_not(running: Vpctl) -> None:
    link = WEST
    words = ("--link", link, "-w", "ping", "--repeats", "5")
    before, _ = measured(running, "before", *words)
    running.guest("left", f"modprobe sch_netem; tc qdisc add dev {link} root netem delay 3ms")
    try:
        slow, _ = measured(running, "slow", *words)
    finally:
        running.guest("left", f"tc qdisc del dev {link} root")
    judged = running.start("compare", "--json", str(before), str(slow)).wait(7)
    verdicts = {row["workload"]: row["verdict"] for row in judged.data["rows"]}
    assert verdicts["ping"] == "worse"
    # The same file against itself: no row can differ.
    same = running.run("compare", "--json", str(before), str(before)).data
    assert {row["verdict"] for row in same["rows"]} <= {"same", "unclear"}


def test_measuring_leaves_the_guests_as_they_were(running: Vpctl) -> None:
    link = WEST
    look = "cat /proc/sys/net/core/rmem_max /proc/sys/net/core/wmem_max; pidof iperf3"
    before, ids = running.guest("left", f"{look} || true"), boot_ids(running, "left", "middle")
    measured(running, "once", "--link", link, "-w", "ping,udp", "--repeats", "1")
    assert running.guest("left", f"{look} || true") == before
    assert boot_ids(running, "left", "middle") == ids
    assert (
        running.guest("middle", "cat /proc/net/pktgen/kpktgend_0 2>/dev/null | grep -c Stopped: || true") is not None
    )


def test_an_interrupted_run_leaves_nothing_running_in_the_guests(running: Vpctl) -> None:
    limits = running.guest("middle", "cat /proc/sys/net/core/rmem_max")
    command = running.start("bench", "--quick", "--link", WEST, "-w", "tcp", "--duration", "30", "-v")
    assert command.process.stderr is not None
    while "tcp" not in (line := command.process.stderr.readline()):
        assert line, "bench ended by itself"
    until(lambda: running.guest("left", "pidof iperf3 || true") or None, "the transfer")
    command.process.send_signal(signal.SIGINT)
    command.wait(130)
    for vm in ("left", "middle"):
        assert running.guest(vm, "pidof iperf3 || true") == ""
    assert running.guest("middle", "cat /proc/sys/net/core/rmem_max") == limits


def test_a_link_that_carries_nothing_is_an_error_and_no_figure_while_the_other_is_measured(running: Vpctl) -> None:
    first, second = WEST, EAST
    running.guest("left", f"modprobe sch_netem; tc qdisc add dev {first} root netem loss 100%")
    try:
        done = running.start("bench", "--quick", "--repeats", "1", "-w", "ping", "--json").wait(1, limit=120)
    finally:
        running.guest("left", f"tc qdisc del dev {first} root")
    data = json.loads(done.stdout)
    assert {sample["link"] for sample in data["samples"]} == {second}
    assert {failure["link"] for failure in data["failures"]} == {first}
    assert f"link `{first}`" in done.stderr


def test_an_outage_is_as_long_as_the_crash_that_caused_it(running: Vpctl) -> None:
    ids = boot_ids(running, "middle")
    after = running.last_seq("chain")
    _, data = measured(running, "outage", "--crash", "left", "--repeats", "1")
    rows = [sample for sample in data["samples"] if sample["workload"] == "outage"]
    assert {(row["from"], row["to"], row["variant"]) for row in rows} == {("left", "middle", "crash")}
    assert boot_ids(running, "middle") == ids
    # The warm-up crashed it as well: the second recovery is the one that was measured.
    fault, back = (
        [e["time"] for e in running.journal("chain") if e["seq"] > after and e["type"] == type_]
        for type_ in ("fault", "recovery.end")
    )
    assert len(fault) == len(back) == 2
    recovery = [e for e in running.journal("chain") if e["seq"] > after and e["type"] == "recovery.end"][1]
    # The gap ends with the first packet of a sender that is started in the new guest, which takes about as long there
    # as the recovery's own check.
    whole_ms = (back[1] - fault[1]) * 1000
    assert recovery["attributes"]["boot_ms"] < rows[0]["median"] < 1.5 * whole_ms, recovery["attributes"]["total_ms"]


def test_a_guest_that_dies_ends_its_link_within_seconds_and_not_the_others(running: Vpctl) -> None:
    first, second = WEST, EAST
    xml = running.files / "killed.xml"
    path = running.files / "killed.json"
    command = running.start(
        *("bench", "--quick", "--repeats", "2", "-w", "ping,tcp", "--duration", "3"),
        *("-o", str(path), "--junit-xml", str(xml), "-v"),
    )
    assert command.process.stderr is not None
    seen = []
    while f"{first}  tcp" not in (line := command.process.stderr.readline()) or "1/2" not in line:
        seen.append(line)
        assert line, "".join(seen)
    began = os.times().elapsed
    kill(running.qemu("chain", "left"))
    while "is not measured any more" not in (line := command.process.stderr.readline()):
        assert line, "the death was not told"
    told = os.times().elapsed - began
    done = command.wait(1)
    data = json.loads(path.read_text())
    # A transfer takes 3 s and its limit is a minute: whoever waited for either would be later than that.
    assert told < 3
    assert "left" in done.stderr + "".join(seen)
    other = [s for s in data["samples"] if s["link"] == second]
    assert {s["workload"] for s in other} == {"ping", "tcp"}
    assert all(len(s["values"]) == 2 for s in other)
    assert {failure["link"] for failure in data["failures"]} == {first}
    assert {skip["link"] for skip in data["skipped"]} == {first}
    skipped = [case.get("message") for case in ET.parse(xml).getroot().iter("skipped")]
    failed = [case.get("message") for case in ET.parse(xml).getroot().iter("failure")]
    assert any("left" in str(message) for message in skipped + failed)
    until(lambda: True if running.recorded("chain")["state"] == "up" else None, "the recovery of left")


def test_what_was_booted_to_be_measured_is_stopped_and_keeps_its_logs_if_a_guest_died(vpctl: Vpctl) -> None:
    command = vpctl.start("bench", PAIR, "-w", "outage", "--duration", "60", "--repeats", "1", "-v")
    assert command.process.stderr is not None
    while "outage" not in (line := command.process.stderr.readline()):
        assert line, "bench ended by itself"
    kill(vpctl.qemu("pair", "vm1"))
    done = command.wait(1)
    assert "`vm1` ended in the middle of it" in done.stderr
    assert vpctl.processes() == []
    assert "vpctl: ssh" in vpctl.run("logs", "vm1", "-t", "pair", "-g", "1").stdout


def test_a_guest_without_the_program_is_skipped_with_the_reason(running: Vpctl) -> None:
    link = WEST
    running.guest("middle", "echo >/tmp/none; chmod 600 /tmp/none; mount --bind /tmp/none /usr/bin/iperf3")
    try:
        _, data = measured(running, "lacking", "--link", link, "-w", "ping,tcp", "--repeats", "1")
    finally:
        running.guest("middle", "umount /usr/bin/iperf3")
    assert {sample["workload"] for sample in data["samples"]} == {"ping"}
    assert [(skip["workload"], skip["reason"]) for skip in data["skipped"]] == [("tcp", "`middle` has no `iperf3`")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-w", "pong"), "no workload named `pong`"),
        (("--link", "lan9"), "no link named `lan9`"),
        (("--compare-kinds", "stream,dgram"), "needs a topology file"),
        (("--crash", "vm9"), "no VM named `vm9`"),
        (("-o", "/nowhere/r.json"), "cannot write /nowhere/r.json"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(
    running: Vpctl, words: tuple[str, ...], said: str
) -> None:
    done = running.run("bench", *words, status=None)
    assert done.status in (2, 3, 8)
    assert said in done.stderr
