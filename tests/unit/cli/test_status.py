"""`vpctl status` of a topology whose broker and supervisor are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.fakes.broker import made
from tests.unit.cli.view.shown import STATUS, shown
from vpctl.cli import check, status
from vpctl.process import identify
from vpctl.rundir import Directories, host_boot_id, write_json


def test_guests_without_a_supervisor_are_not_well_which_is_1(directories: Directories) -> None:
    rundir = made(directories)
    guest = identify(os.getpid())
    assert guest is not None
    process = {"name": "vm/vm1", "generation": 1, "pid": guest.pid, "start_time": guest.start_time, "directory": "/x"}
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [process]})
    vm = {
        "name": "vm1",
        "state": "ready",
        "pid": guest.pid,
        "accelerator": "tcg",
        "qemu_version": "7.2.22",
        "generation": 1,
        "ssh": {"host": "127.0.0.1", "port": 0},
    }
    status = {"schema_version": 1, "name": "pair", "state": "running", "vms": [vm], "links": []}
    write_json(rundir.status, {**status, "supervisor": {"pid": 77}})
    argv = [sys.executable, "-m", "vpctl", "status", "pair", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == {**status, "supervisor": {"pid": None}}
    assert "own processes of `pair` are gone" in done.stderr


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
