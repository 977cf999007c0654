"""A pair and a chain that run: every command that looks at them or into them, and what they are shut off from."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import EXAMPLES, Command, Vpctl, until, user
from vpctl.process import ProcessId
from vpctl.rundir import read_json

pytestmark = pytest.mark.vm

PAIR = str(EXAMPLES / "pair.yaml")
CHAIN = str(EXAMPLES / "chain.yaml")
TYPES = {"vm.state", "link.state", "qmp.event", "qmp.command", "fault", "recovery.step", "recovery.end", "check"}
TYPES |= {"command"}
STAGES = ["process", "qmp", "kernel", "ssh"]
PLUGS = ["netdev_add", "set_link", "device_add", "netdev_add", "device_add"]
"""Of a stream link: the listener, whose link stays down until the client is there, and the client."""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Vpctl, dict[str, Any]]]:
    """A pair and a chain, started at the same time; with what each `up` said."""
    with user() as vpctl:
        started: dict[str, Command] = {
            "pair": vpctl.start("up", "-f", "json", PAIR),
            "chain": vpctl.start("up", "-f", "json", CHAIN),
        }
        yield vpctl, {name: command.wait().data for name, command in started.items()}


@pytest.fixture
def shared(both: tuple[Vpctl, dict[str, Any]]) -> Vpctl:
    return both[0]


@pytest.fixture
def said(both: tuple[Vpctl, dict[str, Any]]) -> dict[str, Any]:
    return both[1]


def pids(status: dict[str, Any]) -> list[int]:
    return [status["supervisor"]["pid"], *(vm["pid"] for vm in status["vms"])]


# Section: JSON as contracted


@pytest.mark.parametrize("name", ["pair", "chain"])
def test_up_says_what_runs_how_long_it_took_and_what_was_verified(said: dict[str, Any], name: str) -> None:
    up = said[name]
    assert_status(up, name)
    vms = [vm["name"] for vm in up["vms"]]
    timed = {vm: [entry["stage"] for entry in up["timings"] if entry["vm"] == vm] for vm in vms}
    assert timed == dict.fromkeys(vms, STAGES)
    assert all(entry["ms"] > 0 for entry in up["timings"])
    directions = [(check["link"], check["from"], check["to"]) for check in up["checks"]]
    expected = [(link["name"], *ends) for link in up["links"] for ends in two_ways(link)]
    assert sorted(directions) == sorted(expected)
    assert all(check["ok"] and check["loss_percent"] == 0 and check["rtt_ms"] > 0 for check in up["checks"])


def two_ways(link: dict[str, Any]) -> list[tuple[str, str]]:
    one, other = (end["vm"] for end in link["endpoints"])
    return [(one, other), (other, one)]


def assert_status(data: dict[str, Any], name: str) -> None:
    assert (data["schema_version"], data["name"], data["state"]) == (1, name, "up")
    assert Path(f"/proc/{data['supervisor']['pid']}").is_dir()
    for vm in data["vms"]:
        assert {"name", "state", "pid", "accelerator", "qemu_version", "generation", "ssh"} <= vm.keys()
        assert (vm["state"], vm["generation"], vm["ssh"]["host"]) == ("ready", 1, "127.0.0.1")
        assert vm["accelerator"] in ("tcg", "kvm")
        assert f"guest={vm['name']}" in Path(f"/proc/{vm['pid']}/cmdline").read_text()
        assert 0 < vm["ssh"]["port"] < 65536
    for link in data["links"]:
        assert (link["kind"], link["state"], link["generation"]) == ("stream", "up", 1)
        for end in link["endpoints"]:
            assert {"vm", "interface", "address", "mac"} <= end.keys()
            assert end["interface"] == link["name"]


def test_status_shows_the_same_as_up(shared: Vpctl, said: dict[str, Any]) -> None:
    status = shared.json("status", "pair")
    assert_status(status, "pair")
    assert pids(status) == pids(said["pair"])
    ends = [(end["vm"], end["address"]) for end in status["links"][0]["endpoints"]]
    assert ends == [("vm1", "10.77.0.1/30"), ("vm2", "10.77.0.2/30")]
    text = shared.run("status", "pair").stdout
    assert "vm1" in text
    assert "10.77.0.2/30" in text


def test_list_names_both_and_a_command_needs_to_know_which(shared: Vpctl) -> None:
    listed = shared.json("list")["topologies"]
    assert [(entry["name"], entry["state"]) for entry in listed] == [("chain", "up"), ("pair", "up")]
    assert listed[0]["vms"] == [{"name": name, "state": "ready"} for name in ("left", "middle", "right")]
    refused = shared.run("status", status=2)
    assert "-t NAME" in refused.stderr
    assert_status(shared.json("status", "-t", "chain"), "chain")
    error = shared.run("down", "-f", "json", status=2).data["error"]
    assert error["code"] == "usage"
    assert "`pair`" in error["hint"]


def test_up_of_what_runs_starts_nothing(shared: Vpctl, said: dict[str, Any]) -> None:
    again = shared.json("up", PAIR)
    assert pids(again) == pids(said["pair"])
    assert again["links"][0]["generation"] == 1
    assert all(check["ok"] for check in again["checks"])


def test_up_of_a_changed_file_points_to_down(shared: Vpctl, said: dict[str, Any]) -> None:
    text = Path(PAIR).read_text().replace("10.77.0.0/30", "10.78.0.0/30")
    refused = shared.run("up", "-f", "json", str(shared.file(text)), status=2).data["error"]
    assert refused["code"] == "usage"
    assert "vpctl down pair" in refused["hint"]
    # A comment or another order of keys says nothing else.
    assert pids(shared.json("up", str(shared.file("# the same\n" + Path(PAIR).read_text())))) == pids(said["pair"])


def test_check_covers_every_protocol_and_size_both_ways(shared: Vpctl) -> None:
    data = shared.json("check", "-t", "chain")
    assert data["ok"]
    assert [(link["link"], link["ok"]) for link in data["links"]] == [("west0", True), ("east0", True)]
    for link in data["links"]:
        for test in link["tests"]:
            keys = {"from", "to", "protocol", "size", "sent", "received", "corrupt", "ok"}
            assert keys <= test.keys()
            assert test["sent"] == test["received"] > 0 == test["corrupt"]
        for source in {test["from"] for test in link["tests"]}:
            seen = {(t["protocol"], t["size"]) for t in link["tests"] if t["from"] == source}
            assert {("frame", 60), ("frame", 1514), ("udp", 1), ("udp", 65507), ("tcp", 65536)} <= seen
        assert len({test["from"] for test in link["tests"]}) == 2


def test_checks_that_are_asked_for_at_the_same_time_are_one(shared: Vpctl) -> None:
    seq = shared.last_seq("chain")
    commands = [shared.start("check", "-t", "chain", "-f", "json", "--link", "west0") for _ in range(3)]
    assert [command.wait().data["ok"] for command in commands] == [True] * 3
    checks = [e["attributes"]["ok"] for e in shared.journal("chain") if e["seq"] > seq and e["type"] == "check"]
    assert 1 <= len(checks) <= 3, "a command that comes late begins another"
    assert all(checks)


def test_check_fails_where_frames_do_not_get_through_and_one_link_can_be_chosen(shared: Vpctl) -> None:
    shared.guest("left", "ip link set west0 mtu 1400")  # its own end still sends, but no longer what the file says
    try:
        data = shared.json("check", "-t", "chain", "--link", "west0", status=1)
    finally:
        shared.guest("left", "ip link set west0 mtu 1500")
    (link,) = data["links"]
    assert (data["ok"], link["ok"]) == (False, False)
    bad = [(test["from"], test["protocol"], test["size"]) for test in link["tests"] if not test["ok"]]
    assert ("left", "frame", 1514) in bad
    assert shared.json("check", "-t", "chain", "--link", "west0")["ok"]
    unknown = shared.run("check", "-t", "chain", "--link", "north0", status=8)
    assert "`west0`" in unknown.stderr


def test_plan_shows_what_really_runs(shared: Vpctl, said: dict[str, Any]) -> None:
    plan = shared.json("plan", PAIR)
    assert plan == shared.json("up", "--dry-run", PAIR)
    for vm, running in zip(plan["vms"], said["pair"]["vms"], strict=True):
        assert Path(f"/proc/{running['pid']}/cmdline").read_text().split("\0")[:-1] == vm["argv"]
    (link,) = plan["links"]
    assert [step["execute"] for step in link["steps"]] == PLUGS
    done = [
        (entry["vm"], entry["attributes"]["command"], entry["attributes"]["arguments"])
        for entry in shared.journal("pair")
        if entry["type"] == "qmp.command" and entry["attributes"]["command"] in PLUGS
    ]
    assert done == [(step["vm"], step["execute"], step["arguments"]) for step in link["steps"]]


def test_events_are_json_lines_of_the_contracts_types(shared: Vpctl) -> None:
    entries = [json.loads(line) for line in shared.run("events", "-t", "pair", "-f", "json").stdout.splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    types = [
        "vm.state",
        "link.state",
        "qmp.event",
        "qmp.command",
        "fault",
        "recovery.step",
        "recovery.end",
        "check",
        "command",
    ]
    assert {entry["type"] for entry in entries} <= set(types)
    for entry in entries:
        assert {"time", "seq", "type", "attributes"} <= entry.keys() <= {*entry, "vm", "link"}
    states = [e["attributes"]["state"] for e in entries if e.get("vm") == "vm1" and e["type"] == "vm.state"]
    assert [state for state in states if state not in ("begin", "end")] == ["starting", "booting", "ready"]
    assert "lan0" in shared.run("events", "-t", "pair").stdout


def test_events_follow_what_happens(shared: Vpctl) -> None:
    following = shared.start("events", "--follow", "-f", "json", "-t", "pair")
    before = shared.last_seq("pair")
    shared.json("check", "-t", "pair")
    assert following.process.stdout is not None
    for line in following.process.stdout:
        entry = json.loads(line)
        if entry["seq"] > before and entry["type"] == "check":
            break
    following.process.terminate()
    following.wait(130)


# Section: into the guests


def test_exec_has_the_guests_own_streams_and_exit_code(shared: Vpctl) -> None:
    done = shared.run("exec", "vm1", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert shared.run("exec", "vm1", "--", "printf", "%s|", "a b", "$HOME", "'").stdout == "a b|$HOME|'|"
    assert shared.run("exec", "vm1", "--", "kill -9 $$", status=137).stdout == ""
    data = shared.json("exec", "vm1", "--", "echo one; exit 3", status=3)
    assert (data["stdout"], data["status"]) == ("one\n", 3)
    piped = shared.start("exec", "vm2", "--", "wc -c", stdin=subprocess.PIPE)
    assert piped.process.communicate("x" * 300_000, timeout=60)[0].strip() == "300000"


def test_exec_that_could_not_run_is_255(shared: Vpctl) -> None:
    nobody = shared.run("exec", "vm9", "--", "true", status=255)
    assert "`vm1`" in nobody.stderr
    broken = shared.start("exec", "vm1", "--", "kill -9 $PPID; sleep 60")
    assert "connection broke" in broken.wait(255).stderr
    assert shared.guest("vm1", "echo well") == "well\n"


def test_exec_is_refused_where_the_host_key_is_not_the_runs_own(shared: Vpctl) -> None:
    status = shared.rundir("pair").status
    before = status.read_text()
    record: Any = read_json(status)
    foreign = shared.rundir("chain").run / "identity.pub"  # a key, but not this run's host key
    for vm in record["vms"]:
        vm["ssh"]["host_key"] = " ".join(foreign.read_text().split()[:2])
    status.write_text(json.dumps(record))
    try:
        refused = shared.run("exec", "vm1", "--", "echo trusted", status=255)
    finally:
        status.write_text(before)
    assert "trusted" not in refused.stdout
    assert "ost key" in refused.stderr


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client is installed")
def test_ssh_is_the_systems_own_with_the_host_key_pinned(shared: Vpctl) -> None:
    shell = shared.start("ssh", "vm1", stdin=subprocess.PIPE)
    out, err = shell.process.communicate("hostname\nexit 5\n", timeout=60)
    assert (shell.process.returncode, out.strip()) == (5, "vm1"), err
    known = shared.rundir("pair").known_hosts
    before = known.read_text()
    foreign = (shared.rundir("pair").run / "identity.pub").read_text().split()
    known.write_text(f"{before.split()[0]} {foreign[0]} {foreign[1]}\n")
    try:
        refused = shared.start("ssh", "vm1", stdin=subprocess.PIPE)
        out, err = refused.process.communicate("hostname\n", timeout=60)
        assert (refused.process.returncode, out) == (255, ""), err
    finally:
        known.write_text(before)


def test_files_are_copied_both_ways(shared: Vpctl, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2000
    (tmp_path / "there").write_bytes(content)
    shared.run("cp", str(tmp_path / "there"), "vm2:/tmp/file")
    shared.run("cp", "vm2:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    assert "VM:PATH" in shared.run("cp", "a", "b", status=2).stderr
    assert "/nowhere" in shared.run("cp", "vm2:/nowhere", str(tmp_path), status=2).stderr


def test_qmp_runs_one_command_beside_the_supervisor(shared: Vpctl) -> None:
    assert shared.json("qmp", "vm1", "query-status")["return"]["status"] == "running"
    assert json.loads(shared.run("qmp", "vm1", "qom-list", "path=/machine/peripheral").stdout)
    refused = shared.run("qmp", "-f", "json", "vm1", "no-such-command", status=5).data["error"]
    assert refused["code"] == "qmp"
    assert "no-such-command" in refused["message"]


def test_logs_show_console_and_command_line(shared: Vpctl) -> None:
    data = shared.json("logs", "-t", "pair", "vm1")
    assert (data["vm"], data["generation"], data["generations"]) == ("vm1", 1, [1])
    assert "vpctl: ssh" in data["files"]["serial.log"]
    assert "-netdev" in data["files"]["argv"]
    assert "serial.log" in shared.run("logs", "vm1").stdout
    assert "no generation 9" in shared.run("logs", "vm1", "-g", "9", status=8).stderr


def test_console_takes_keys_and_shows_what_the_guest_prints(shared: Vpctl) -> None:
    console = shared.start("console", "left", stdin=subprocess.PIPE)
    assert console.process.stdin is not None
    assert console.process.stdout is not None
    console.process.stdin.write("\recho $((6 * 7))-answered\r")
    console.process.stdin.flush()
    seen = ""
    while "42-answered" not in seen:
        seen += console.process.stdout.read(1)
    console.process.stdin.write("\x1d")
    console.process.stdin.flush()
    assert console.process.wait(timeout=30) == 0


def test_links_have_name_address_and_mtu_in_each_guest(shared: Vpctl, said: dict[str, Any]) -> None:
    for link in said["chain"]["links"]:
        for end in link["endpoints"]:
            (shown,) = json.loads(shared.guest(end["vm"], f"ip -j address show dev {end['interface']}"))
            address = next(entry for entry in shown["addr_info"] if entry["family"] == "inet")
            assert f"{address['local']}/{address['prefixlen']}" == end["address"]
            assert (shown["address"], shown["mtu"]) == (end["mac"], 1500)


# Section: shut off


def listening(processes: list[ProcessId]) -> list[tuple[str, str]]:
    """Return (table, local address) of each internet socket of these processes that listens, or is bound."""
    inodes = set()
    for process in processes:
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            target = str(entry.readlink()) if entry.is_symlink() else ""
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            words = line.split()
            if words[9] in inodes and (table[:3] != "tcp" or words[3] == "0A"):
                found.append((table, words[1].rpartition(":")[0]))
    return found


def test_nothing_listens_but_on_loopback(shared: Vpctl, said: dict[str, Any]) -> None:
    found = listening(shared.processes())
    ports = sum(len(up["vms"]) for up in said.values())
    assert found == [("tcp", "0100007F")] * ports  # one ssh forward per guest, and nothing else


def test_guests_cannot_reach_the_hosts_loopback(shared: Vpctl) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(5)
        port = server.getsockname()[1]
        out = shared.guest("vm1", f"ip route get 10.0.2.2; echo hello | nc -w 2 10.0.2.2 {port}; echo ended $?")
        assert "dev mgmt" in out, "there is a way; it is shut"
        assert "ended 1" in out
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_directories_are_private_and_secrets_are_not_in_argv(shared: Vpctl) -> None:
    for name in ("pair", "chain"):
        rundir = shared.rundir(name)
        for directory in (rundir.run.parent, rundir.run, rundir.state.parent, rundir.state):
            assert directory.stat().st_mode & 0o777 == 0o700, directory
        for path in rundir.run.rglob("*"):
            assert path.is_socket() or path.stat().st_mode & 0o077 == 0, path
    key = shared.rundir("pair").identity.read_text().splitlines()[1]
    for process in shared.processes():
        assert key not in Path(f"/proc/{process.pid}/cmdline").read_text()


def test_every_run_has_keys_of_its_own(shared: Vpctl) -> None:
    keys = [shared.rundir(name).run / file for name in ("pair", "chain") for file in ("identity.pub", "host_key")]
    assert len({path.read_bytes() for path in keys}) == 4


def test_qemu_is_confined_by_all_four_denials(said: dict[str, Any]) -> None:
    for vm in said["pair"]["vms"]:
        argv = Path(f"/proc/{vm['pid']}/cmdline").read_text().split("\0")
        denials = argv[argv.index("-sandbox") + 1].split(",")
        assert {f"{what}=deny" for what in ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")} <= {
            *denials
        }
        # And the kernel does filter its system calls.
        assert "\nSeccomp:\t2\n" in Path(f"/proc/{vm['pid']}/status").read_text()


# Section: the end


def test_two_topologies_with_the_same_vm_names_and_the_end_of_one(shared: Vpctl, said: dict[str, Any]) -> None:
    twin = shared.spare_file("twin")
    shared.json("up", str(twin))
    refused = shared.run("exec", "vm1", "--", "true", status=255)
    assert "-t " in refused.stderr
    assert shared.run("qmp", "vm1", "query-status", status=2).stderr.startswith("error: 2 topologies have a VM")
    for name in ("pair", "twin"):
        uuid = shared.run("exec", "-t", name, "vm1", "--", "ls /sys/class/net").stdout.split()
        assert ("lan0" in uuid) == (name == "pair")
    shared.run("down", "twin")
    assert not shared.rundir("twin").run.exists()
    assert not shared.rundir("twin").state.exists()
    assert pids(shared.json("status", "pair")) == pids(said["pair"])


def test_status_and_the_others_say_8_when_nothing_runs(vpctl: Vpctl) -> None:
    for words in (["status"], ["list"], ["check"], ["events"], ["recover", "vm1"], ["crash", "vm1"], ["status", "x"]):
        error = vpctl.run(words[0], "-f", "json", *words[1:], status=8).data["error"]
        assert error["code"] == "not-found"
    assert vpctl.run("exec", "vm1", "--", "true", status=255).stdout == ""
    assert vpctl.json("down")["stopped"] == []
    assert vpctl.json("down", "pair")["stopped"] == []
    vpctl.assert_nothing_left()


def test_down_leaves_no_process_socket_or_directory(shared: Vpctl) -> None:
    processes = shared.processes()
    assert len(processes) == 2 * 2 + 5  # broker and supervisor each, and the QEMUs
    assert shared.json("down", "--all")["stopped"] == ["chain", "pair"]
    assert [process for process in processes if process.is_alive()] == []
    shared.assert_nothing_left()
    until(lambda: True if not shared.directories.run.exists() else None, "the run directory's end", limit=1)
