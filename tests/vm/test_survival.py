"""The death of vpctl's own processes, at rest and in the middle of things: guests and links carry on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.commandline import EXAMPLES, Vpctl, kill, until, user
from vpctl.process import ProcessId

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

PAIR = str(EXAMPLES / "pair.yaml")


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    with user() as vpctl:
        vpctl.run("up", PAIR)
        yield vpctl


def living(status: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what must not change when no guest is concerned."""
    machines = [(vm["name"], vm["state"], vm["pid"], vm["generation"]) for vm in status["vms"]]
    return machines + [(link["name"], link["state"], link["generation"]) for link in status["links"]]


def new_supervisor(vpctl: Vpctl, old: ProcessId) -> ProcessId:
    def look() -> ProcessId | None:
        found = vpctl.supervisor("pair")
        return found if found is not None and found != old else None

    return until(look, "a new supervisor")


def test_supervisor_killed_under_bidirectional_iperf3(pair: Vpctl) -> None:
    before = pair.json("status")
    boot_ids = [pair.guest(vm, "cat /proc/sys/kernel/random/boot_id") for vm in ("vm1", "vm2")]
    pair.guest("vm1", "iperf3 --server --daemon --one-off")
    after = pair.last_seq("pair")
    traffic = pair.start("exec", "vm2", "--", "iperf3 -c 10.77.0.1 --bidir --time 4 --interval 0.5 --json")
    counter = "cat /sys/class/net/lan0/statistics/rx_bytes"
    idle = int(pair.guest("vm1", counter))
    until(lambda: True if int(pair.guest("vm1", counter)) > idle + 1_000_000 else None, "traffic")
    old = kill(pair.supervisor("pair"))
    new = new_supervisor(pair, old)
    taken = pair.entry("pair", "command", after=after, command="take-over")
    assert taken["attributes"]["adopted"] == ["supervisor", "vm/vm1", "vm/vm2"]
    result = json.loads(traffic.wait().stdout)
    assert "error" not in result
    for direction in ("sum_sent", "sum_received", "sum_sent_bidir_reverse", "sum_received_bidir_reverse"):
        assert result["end"][direction]["bytes"] > 1_000_000
    stalled = [part["sum"]["bytes"] for part in result["intervals"]]
    assert min(stalled) > 0, "no half second without packets"
    status = pair.json("status")
    assert status["supervisor"]["pid"] == new.pid
    assert living(status) == living(before)
    assert boot_ids == [pair.guest(vm, "cat /proc/sys/kernel/random/boot_id") for vm in ("vm1", "vm2")]
    assert pair.json("check")["ok"]
    types = {entry["type"] for entry in pair.journal("pair") if entry["seq"] > after}
    assert not types & {"fault", "link.state", "recovery.step"}


def test_supervisor_killed_in_the_middle_of_a_recovery(pair: Vpctl) -> None:
    before = pair.json("status")
    after = pair.last_seq("pair")
    pair.run("crash", "vm2", "--how", "kill")
    recover = pair.start("recover", "-f", "json", "vm2")
    pair.entry("pair", "vm.state", after=after, vm="vm2", stage="kernel", state="begin")
    kill(pair.supervisor("pair"))
    assert recover.wait().data["ok"]
    ended = pair.entry("pair", "recovery.end", after=after, vm="vm2")["attributes"]
    assert (ended["fault"], ended["ok"], [link["link"] for link in ended["links"]]) == ("qemu-exit", True, ["lan0"])
    assert 0 <= ended["detect_ms"] < ended["total_ms"], "its times are those of the fault, not of the successor"
    assert "fence" not in {step["name"] for step in ended["steps"]}, "the boot that had begun went on"
    status = pair.json("status")
    assert status["state"] == "up"
    assert status["vms"][0]["pid"] == before["vms"][0]["pid"]
    assert status["vms"][1]["pid"] != before["vms"][1]["pid"]
    assert pair.json("check")["ok"]
    assert len(pair.qemus()) == 2, "no QEMU too many"


@pytest.mark.long
def test_guest_killed_together_with_the_supervisor(pair: Vpctl) -> None:
    before = pair.json("status")
    after = pair.last_seq("pair")
    old = kill(pair.supervisor("pair"))
    kill(pair.qemu("pair", "vm1"))
    new_supervisor(pair, old)
    fault = pair.entry("pair", "fault", after=after, vm="vm1")["attributes"]
    assert (fault["fault"], fault["status"]) == ("qemu-exit", -9), "the broker wrote down how it ended"
    pair.entry("pair", "recovery.end", after=after, vm="vm1", ok=True)
    status = pair.json("status")
    assert (status["state"], status["vms"][1]["pid"]) == ("up", before["vms"][1]["pid"])
    assert pair.json("check")["ok"]


def test_broker_killed_is_a_named_fault_and_a_later_crash_is_still_recovered(pair: Vpctl) -> None:
    before = pair.json("status")
    after = pair.last_seq("pair")
    old = kill(pair.broker("pair"))
    pair.entry("pair", "fault", after=after, fault="broker-exit")
    ended = pair.entry("pair", "recovery.end", after=after, fault="broker-exit")["attributes"]
    assert (ended["ok"], ended["adopted"]) == (True, ["supervisor", "vm/vm1", "vm/vm2"])
    new = until(lambda: pair.broker("pair"), "a new broker")
    assert new != old
    status = pair.json("status")
    assert living(status) == living(before)
    assert status["supervisor"] == before["supervisor"]
    assert pair.json("check")["ok"]
    kill(pair.qemu("pair", "vm2"))
    fault = pair.entry("pair", "fault", after=after, vm="vm2")["attributes"]
    assert (fault["fault"], fault["status"]) == ("qemu-exit", None), "only a parent is told the status"
    pair.entry("pair", "recovery.end", after=after, vm="vm2", ok=True)
    status = pair.json("status")
    assert (status["state"], status["vms"][0]["pid"]) == ("up", before["vms"][0]["pid"])
    assert pair.json("check")["ok"]


def test_up_takes_over_what_runs_without_broker_and_supervisor(pair: Vpctl) -> None:
    before = pair.json("status")
    kill_both(pair)
    assert pair.guest("vm1", "ping -c 1 -I lan0 10.77.0.2 >/dev/null && echo well") == "well\n"
    again = pair.json("up", PAIR)
    assert living(again) == living(before)
    assert pair.json("check")["ok"]


def test_down_ends_what_runs_without_broker_and_supervisor(pair: Vpctl) -> None:
    qemus = [pair.qemu("pair", vm) for vm in ("vm1", "vm2")]
    assert None not in qemus
    kill_both(pair)
    assert pair.json("down")["stopped"] == ["pair"]
    assert [process for process in qemus if process is not None and process.is_alive()] == []
    pair.assert_nothing_left()


def kill_both(vpctl: Vpctl) -> None:
    """Kill supervisor and broker, so that none of them can start the other."""
    supervisor, broker = vpctl.supervisor("pair"), vpctl.broker("pair")
    assert supervisor is not None
    assert broker is not None
    # Stopped first: neither is to see the other's end.
    supervisor.signal(signal.SIGSTOP)
    broker.signal(signal.SIGSTOP)
    kill(broker)
    kill(supervisor)
    until(lambda: True if not (broker.is_alive() or supervisor.is_alive()) else None, "their end")


@pytest.mark.parametrize("stage", [pytest.param("process", marks=pytest.mark.long), "ssh"])
def test_supervisor_killed_in_the_middle_of_up(vpctl: Vpctl, stage: str) -> None:
    up = vpctl.start("up", "-f", "json", PAIR)
    vpctl.entry("pair", "vm.state", vm="vm1", stage=stage, state="begin")
    kill(vpctl.supervisor("pair"))
    status = up.wait().data
    assert status["state"] == "up"
    assert [vm["generation"] for vm in status["vms"]] == [1, 1], "what had begun to boot went on"
    assert all(check["ok"] for check in status["checks"])
    assert vpctl.json("check")["ok"]


def test_broker_killed_in_the_middle_of_up(vpctl: Vpctl) -> None:
    up = vpctl.start("up", "-f", "json", PAIR)
    vpctl.entry("pair", "vm.state", vm="vm1", stage="kernel", state="begin")
    kill(vpctl.broker("pair"))
    status = up.wait().data
    assert status["state"] == "up"
    assert all(check["ok"] for check in status["checks"])
    vpctl.entry("pair", "recovery.end", fault="broker-exit", ok=True)
