"""Beginnings and ends that meet: interrupts, two commands at once, stale directories, files that are gone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.commandline import EXAMPLES, Vpctl, until
from vpctl.process import identify
from vpctl.rundir import OWNER, RunDir, host_boot_id, make_root, read_owner, write_json

pytestmark = pytest.mark.vm

PAIR = str(EXAMPLES / "pair.yaml")


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("broker", signal.SIGINT),
        ("process", signal.SIGTERM),
        ("kernel", signal.SIGINT),
        ("ssh", signal.SIGTERM),
        ("plug", signal.SIGINT),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_interrupted_up_leaves_nothing(vpctl: Vpctl, stage: str, number: signal.Signals) -> None:
    up = vpctl.start("up", "-f", "json", PAIR)
    if stage == "broker":
        until(lambda: True if vpctl.rundir("pair").run.exists() else None, "the run directory")
    elif stage == "plug":
        vpctl.entry("pair", "recovery.step", name="plug")
    else:
        vpctl.entry("pair", "vm.state", stage=stage, state="begin")
    up.process.send_signal(number)
    time.sleep(0.02)
    up.process.send_signal(number)  # the impatient press twice
    assert up.wait(130).data["error"]["code"] == "interrupted"
    vpctl.assert_nothing_left(logs=True)


def test_interrupt_before_anything_is_started(vpctl: Vpctl) -> None:
    up = vpctl.start("up", PAIR)
    until(lambda: b"vpctl" in Path(f"/proc/{up.process.pid}/cmdline").read_bytes() or None, "the command")
    time.sleep(0.1)
    up.process.send_signal(signal.SIGTERM)
    assert up.wait(None).status in (130, -signal.SIGTERM)
    vpctl.assert_nothing_left(logs=True)


def test_two_ups_at_the_same_moment_and_two_downs_with_the_file_gone(vpctl: Vpctl) -> None:
    file = vpctl.files / "pair.yaml"
    file.write_bytes(Path(PAIR).read_bytes())
    both = [vpctl.start("up", "-f", "json", str(file)) for _ in range(2)]
    first, second = (command.wait().data for command in both)
    assert first["state"] == second["state"] == "up"
    assert [vm["pid"] for vm in first["vms"]] == [vm["pid"] for vm in second["vms"]]
    assert first["supervisor"] == second["supervisor"]
    assert len(vpctl.processes()) == 4  # broker, supervisor, two QEMUs
    file.unlink()
    both = [vpctl.start("down", "-f", "json", "pair") for _ in range(2)]
    assert sorted(command.wait().data["stopped"] for command in both) == [[], ["pair"]]
    vpctl.assert_nothing_left()
    assert vpctl.json("down", "pair")["stopped"] == []
    assert vpctl.json("down", "--all")["stopped"] == []
    vpctl.assert_nothing_left()


def test_down_during_up_ends_both(vpctl: Vpctl) -> None:
    up = vpctl.start("up", "-f", "json", PAIR)
    vpctl.entry("pair", "vm.state", stage="kernel", state="begin")
    assert vpctl.json("down")["stopped"] == ["pair"]
    error = up.wait(130).data["error"]
    assert "was stopped meanwhile" in error["message"]
    vpctl.assert_nothing_left()


def test_down_during_a_recovery_stops_it_first(vpctl: Vpctl) -> None:
    vpctl.run("up", PAIR)
    after = vpctl.last_seq("pair")
    # By force, so that nothing but this command begins the recovery: the stop finds it there, on any host.
    recover = vpctl.start("recover", "--force", "-f", "json", "vm2")
    vpctl.entry("pair", "vm.state", after=after, vm="vm2", stage="kernel", state="begin")
    assert vpctl.json("down", "--keep-logs")["stopped"] == ["pair"]
    assert "was stopped meanwhile" in recover.wait(130).data["error"]["message"]
    vpctl.assert_nothing_left(logs=True)
    journal = vpctl.journal("pair")
    assert not [entry for entry in journal if entry["type"] == "recovery.end"]
    assert [e["attributes"]["generation"] for e in journal if e["attributes"].get("state") == "starting"] == [1, 1, 2]


def made_before(rundir: RunDir, *, boot_id: str | None = None) -> None:
    """Make a topology's directories as `up` does, or did in another boot of this host."""
    make_root(rundir.run.parent)
    make_root(rundir.state.parent)
    rundir.claim()
    owner = read_owner(rundir.state)
    assert owner is not None
    if boot_id is not None:
        for directory in (rundir.run, rundir.state):
            write_json(directory / OWNER, replace(owner, host=replace(owner.host, boot_id=boot_id)).as_json())


def test_directories_from_before_a_host_reboot_hurt_nobody(vpctl: Vpctl) -> None:
    foreign = subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)
    try:
        stranger = identify(foreign.pid)
        assert stranger is not None
        rundir = vpctl.rundir("pair")
        earlier = "0" * 8 + host_boot_id()[8:]
        made_before(rundir, boot_id=earlier)
        lost = {"name": "vm/vm1", "generation": 3, "pid": stranger.pid, "directory": str(rundir.generation("vm1", 3))}
        same = {**lost, "start_time": stranger.start_time}
        other = {**same, "name": "supervisor"}
        record = {"boot_id": earlier, "processes": [same, other]}
        rundir.processes.write_text(json.dumps(record))
        rundir.status.write_text('{"run_id": "0", "vms": [{"name": "vm1"')
        rundir.spec.write_text("{}")
        for path in (rundir.broker_lock, rundir.qmp_socket("vm1"), rundir.link_socket("lan0", 1)):
            path.touch()
        rundir.broker_pid.write_text(f"{stranger.pid}\n")
        assert vpctl.run("list", status=8).stdout == ""
        assert vpctl.json("up", PAIR)["state"] == "up"
        assert vpctl.json("down")["stopped"] == ["pair"]
        # The same boot, but a pid that another process has got meanwhile.
        made_before(rundir)
        reused = {**lost, "start_time": stranger.start_time - 1}
        rundir.processes.write_text(json.dumps({"boot_id": host_boot_id(), "processes": [reused]}))
        rundir.broker_pid.write_text(f"{stranger.pid}\n")
        assert vpctl.json("down", "pair")["stopped"] == []
        vpctl.assert_nothing_left()
        assert stranger.is_alive()
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_directory_of_another_user_or_open_to_all_is_refused(vpctl: Vpctl) -> None:
    vpctl.directories.run.mkdir(parents=True)
    vpctl.directories.run.chmod(0o755)
    try:
        error = vpctl.run("up", "-f", "json", PAIR, status=3).data["error"]
        assert "open to other users" in error["message"]
        assert "chmod" in error["hint"]
    finally:
        if vpctl.directories.run.exists():
            vpctl.directories.run.chmod(0o700)
    vpctl.assert_nothing_left()
