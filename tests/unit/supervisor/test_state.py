"""What is known of a topology: `status` against the contract, links over a supervisor's death, hands that tell."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.fakes.broker import made
from tests.fakes.guest import Process, guest_running
from tests.fakes.qmp_server import FakeQemu, serving
from tests.made import made_run, made_topology
from vpctl.broker.protocol import Exit
from vpctl.cli.status import is_well
from vpctl.errors import HostError, NotFoundError, RecoveryError, VerificationError, VpctlError
from vpctl.guest import traffic
from vpctl.guest.heartbeat import EndState, Heartbeat, LinkEnd
from vpctl.guest.ssh import connection
from vpctl.links import LINK_KINDS
from vpctl.plan.link import plugged_device
from vpctl.plan.run import Run
from vpctl.process import ProcessId
from vpctl.process_record import Child
from vpctl.qmp.session import Session, connect
from vpctl.recovery.plan import plan_repair
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories, RunDir, read_json
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.state import MOST_PROBES, TopologyState
from vpctl.supervisor.vm.machine import Machine


def exactly(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these keys; more may be added, says the contract."""
    return {"type": "object", "required": list(properties), "properties": properties}


NAME = {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"}
COUNT = {"type": "integer", "minimum": 0}
STATUS = exactly(
    schema_version={"const": 1},
    name=NAME,
    state={"type": "string"},
    supervisor=exactly(pid=COUNT),
    vms={
        "type": "array",
        "items": exactly(
            name=NAME,
            state={"enum": ["starting", "booting", "ready", "crashed", "recovering", "stopped", "failed"]},
            pid={"type": ["integer", "null"]},
            accelerator={"enum": ["tcg", "kvm"]},
            qemu_version={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            generation=COUNT,
            ssh=exactly(host={"const": "127.0.0.1"}, port={"type": ["integer", "null"]}),
        ),
    },
    links={
        "type": "array",
        "items": exactly(
            name=NAME,
            kind={"enum": list(LINK_KINDS)},
            state={"enum": ["up", "down", "recovering", "failed"]},
            generation=COUNT,
            endpoints={
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": exactly(
                    vm=NAME,
                    interface=NAME,
                    address={"type": "string", "pattern": r"^\d+(\.\d+){3}/\d+$"},
                    mac={"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"},
                ),
            },
        ),
    },
)


@pytest.mark.parametrize("shown", VmState)
@pytest.mark.parametrize("link_state", LinkState)
async def test_status_has_the_contracts_shape_in_every_state(
    state: TopologyState, shown: VmState, link_state: LinkState
) -> None:
    for machine in state.machines.values():
        machine.set_state(shown)
    state.links["lan0"].set_state(link_state)
    status = json.loads(json.dumps(state.status()))
    Draft202012Validator(STATUS).validate(status)
    assert [vm["state"] for vm in status["vms"]] == [str(shown)] * 3
    assert status["links"][0]["state"] == str(link_state)
    assert [end["vm"] for end in status["links"][1]["endpoints"]] == ["vm2", "vm3"]
    assert [end["interface"] for end in status["links"][1]["endpoints"]] == ["lan1", "lan1"]


def test_the_whole_is_up_only_if_every_part_is(state: TopologyState) -> None:
    assert state.status()["state"] == "starting"
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    state.links["lan0"].set_state(LinkState.UP)
    assert state.status()["state"] != "up"
    state.links["lan1"].set_state(LinkState.UP)
    assert state.status()["state"] == "up"
    state.up = {}
    state.machines["vm2"].set_state(VmState.CRASHED)
    assert state.status()["state"] == "degraded"


def test_nothing_is_written_over_what_a_predecessor_left_before_that_was_read(state: TopologyState) -> None:
    state.rundir.status.write_text("{}")
    state.links["lan0"].set_state(LinkState.UP)
    assert read_json(state.rundir.status) == {}
    state.loaded = True
    state.links["lan0"].set_state(LinkState.DOWN)
    assert read_json(state.rundir.status) == json.loads(json.dumps(state.status()))


def test_unknown_names_are_told_the_known_ones(state: TopologyState) -> None:
    with pytest.raises(NotFoundError, match="no VM named `vm9` in `pair`") as caught:
        state.require_vm("vm9")
    assert caught.value.hint == "VMs are `vm1`, `vm2`, `vm3`"
    with pytest.raises(NotFoundError) as caught:
        state.require_link("lan9")
    assert caught.value.hint == "links are `lan0`, `lan1`"


async def test_a_probe_of_a_link_whose_vm_is_not_ready_fails_both_ways_with_the_reason(state: TopologyState) -> None:
    checks = await state.probe("lan0", count=1)
    assert [(check["from"], check["to"]) for check in checks] == [("vm1", "vm2"), ("vm2", "vm1")]
    assert {check["ok"] for check in checks} == {False}
    assert {check["loss_percent"] for check in checks} == {100.0}
    assert all("not ready" in check["reason"] for check in checks)


class Sending(TopologyState):
    """A topology whose checks send until they are stopped."""

    def __init__(self, run: Run, rundir: RunDir) -> None:
        super().__init__(run, rundir)
        self.sends = asyncio.Event()

    async def transmit(self, link: str) -> dict[str, Any]:
        self.sends.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")


def all_up(state: TopologyState) -> None:
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    for link in state.links.values():
        link.set_state(LinkState.UP)


def test_a_vm_whose_cpus_were_stopped_is_paused_until_they_run_again(state: TopologyState) -> None:
    all_up(state)
    state.up = {}
    vm1 = state.machines["vm1"]
    assert state.status()["vms"][0]["paused"] is False
    vm1.take_event({"event": "STOP"})
    status = state.status()
    Draft202012Validator(STATUS).validate(status)
    assert (status["state"], status["vms"][0]["paused"], status["vms"][0]["state"]) == ("degraded", True, "ready")
    assert "vpctl qmp vm1 cont" in status["vms"][0]["reason"]
    assert [link["state"] for link in status["links"]] == ["up", "up"]
    assert not is_well(status)
    vm1.take_event({"event": "RESUME"})
    assert is_well(state.status())


@pytest.mark.parametrize(
    ("status", "paused"),
    [("running", False), ("paused", True), ("io-error", True), ("debug", True), ("guest-panicked", False)],
)
def test_what_qemu_says_of_itself_counts_where_an_event_was_missed(
    state: TopologyState, status: str, paused: bool
) -> None:
    all_up(state)
    vm1 = state.machines["vm1"]
    vm1.take_event({"event": "STOP"})
    vm1.take_run_state(status)
    assert vm1.is_paused is paused


def test_a_vm_that_is_not_ready_is_not_shown_as_paused(state: TopologyState) -> None:
    """A panic stops the vCPUs as well."""
    all_up(state)
    state.machines["vm1"].take_event({"event": "STOP"})
    state.machines["vm1"].set_state(VmState.CRASHED, reason="the guest's kernel panicked")
    vm = state.status()["vms"][0]
    assert (vm["paused"], vm["reason"]) == (False, "the guest's kernel panicked")


@pytest.mark.parametrize("shown", [LinkState.UP, LinkState.DOWN])
async def test_a_check_of_a_link_whose_vm_is_paused_says_so_at_once(rundir: RunDir, shown: LinkState) -> None:
    state = Sending(made_run(made_topology(("lan0", "vm1", "vm2"))), rundir)
    all_up(state)
    state.links["lan0"].set_state(shown)
    state.machines["vm2"].take_event({"event": "STOP"})
    entry = (await state.check(["lan0"]))["links"][0]
    assert (entry["ok"], entry["tests"]) == (False, [])
    assert entry["reason"].startswith("`vm2` is paused")
    assert not state.sends.is_set()


@pytest.mark.parametrize("shown", [LinkState.UP, LinkState.DOWN])
async def test_a_check_ends_when_a_vm_of_its_link_is_paused(rundir: RunDir, shown: LinkState) -> None:
    state = Sending(made_run(made_topology(("lan0", "vm1", "vm2"))), rundir)
    all_up(state)
    state.links["lan0"].set_state(shown)
    checking = asyncio.create_task(state.check(["lan0"]))
    await state.sends.wait()
    state.machines["vm1"].take_event({"event": "STOP"})
    assert (await checking)["links"][0]["reason"].startswith("`vm1` is paused")


async def test_a_probe_of_a_link_whose_vm_is_paused_fails_at_once(state: TopologyState) -> None:
    all_up(state)
    state.machines["vm1"].take_event({"event": "STOP"})
    assert all(check["reason"] == "VM `vm1` is paused" for check in await state.probe("lan0", count=1))


def reports(plan: str, *, arrives: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the agents at both ends say of a plan's messages."""
    parts = [part.replace(":", "x").split("x") for part in plan.split(",")]
    tests = [(protocol, int(size), int(count)) for protocol, size, count in parts]
    counts: list[dict[str, Any]] = [{"protocol": p, "size": size, "sent": count} for p, size, count in tests]
    seen = [{**t, "received": t["sent"] if arrives else 0, "corrupt": 0} for t in counts]
    packets, octets = sum(count for _, _, count in tests), sum(size * count for _, size, count in tests)
    return (
        {"tests": counts, "counters": {"tx_packets": packets, "tx_bytes": octets}},
        {"tests": seen, "counters": {"rx_packets": packets, "rx_bytes": octets}},
    )


class Connected(TopologyState):
    """A topology whose guests are reached through one ssh connection."""

    ssh: Any

    async def guests(self, link: str) -> tuple[traffic.Guest, traffic.Guest]:
        one, two = self.topology.link(link).endpoints
        return traffic.Guest(end=one, ssh=self.ssh, agent="/a"), traffic.Guest(end=two, ssh=self.ssh, agent="/a")


MOVED, PORT = LinkEnd(state=EndState.MOVED), LinkEnd(master="bond0")


@pytest.mark.parametrize(
    ("end", "passes", "protocols", "told"),
    [
        (LinkEnd(), True, {"frame", "udp", "tcp"}, None),
        (LinkEnd(), False, {"frame", "udp", "tcp"}, None),
        (PORT, True, {"frame"}, "UDP and TCP: vm2: port of bond0"),
        (PORT, False, set(), "vm2: port of bond0"),
        (MOVED, False, set(), "vm2: in another network namespace"),
    ],
)
async def test_what_a_user_has_made_of_an_interface_is_checked_as_far_as_it_can_be_and_never_a_fault(
    rundir: RunDir, end: LinkEnd, passes: bool, protocols: set[str], told: str | None
) -> None:
    """`passes`: packets of the agents' come through."""

    async def agent(process: Process) -> None:
        words = shlex.split(process.command or "")
        if words[1] == "probe":
            process.stdout.write(json.dumps({"ok": passes, "rtt_ms": 1.0, "loss_percent": 0.0 if passes else 100.0}))
        else:
            assert end.state is not EndState.MOVED, "nothing is sent where it cannot come through"
            plan = words[words.index("--plan") + 1]
            sent, received = reports(plan) if passes else reports(plan, arrives=False)
            report = f"ready\n{json.dumps(received)}" if words[1] == "recv" else json.dumps(sent)
            process.stdout.write(report + "\n")
        process.exit(0 if passes else 1)

    state = Connected(made_run(made_topology(("lan0", "vm1", "vm2"))), rundir)
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    state.links["lan0"].set_state(LinkState.UP)
    state.machines["vm2"].last_beat = Heartbeat(seq=1, uptime_ms=1, boot_id="x", links={"lan0": end})
    async with guest_running(rundir, agent) as address, connection(address) as state.ssh:
        checks = await state.probe("lan0", count=1)
        checked = await state.check(["lan0"])
    used = end != LinkEnd()
    assert [(check["ok"], check.get("not_provable")) for check in checks] == 2 * [
        (passes or used, (end.use and not passes and f"vm2: {end.use}") or None)
    ]
    [link] = checked["links"]
    assert (link["ok"], link.get("not_checked")) == (passes or used, told)
    assert {test["protocol"] for test in link["tests"]} == protocols
    assert [entry["use"] for entry in state.status()["links"][0]["endpoints"]] == ["", end.use]


class Crowded(TopologyState):
    """A pair with as many links as fit, whose guests serve a few probes at a time; some links are late once."""

    def __init__(self, rundir: RunDir, late: set[str]) -> None:
        names = [f"lan{number}" for number in range(24)]
        super().__init__(made_run(made_topology(*((name, "vm1", "vm2") for name in names))), rundir)
        self.late = late
        self.probed: list[str] = []
        self.at_once = self.most = 0

    async def guests(self, link: str) -> Any:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        for _ in range(5):
            await asyncio.sleep(0)
        self.at_once -= 1
        self.probed.append(link)
        if link in self.late and self.probed.count(link) == 1:
            raise VerificationError("no answer")
        return None, None


async def both_ways(spec: Any, *_: Any, **__: Any) -> list[dict[str, Any]]:
    return [{"link": spec.name, "ok": True}] * 2


@pytest.mark.parametrize("late", [set(), {"lan3", "lan17"}])
async def test_many_links_are_probed_a_few_at_a_time_and_those_that_are_late_again(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch, late: set[str]
) -> None:
    """All 24 at once took a guest longer than any of them was waited for."""
    monkeypatch.setattr(traffic, "probe_both_ways", both_ways)
    state = Crowded(rundir, late)
    checks = await state.probe_all(count=1, seconds=1.0)
    assert state.most == MOST_PROBES
    assert sorted(state.probed) == sorted([*state.links, *late])
    assert {check["link"] for check in checks} == set(state.links)
    assert (len(checks), {check["ok"] for check in checks}) == (48, {True})


class FakeBroker:
    """Spawns nothing: the VM's process has ended when it is told of, or cannot be started at all."""

    def __init__(self, machine: Machine, *, error: VpctlError | None = None) -> None:
        self.machine = machine
        self.error = error

    async def spawn(self, *, name: str, generation: int, directory: str, **_: Any) -> Child:
        if self.error is not None:
            raise self.error
        self.machine.take_exit(Exit(name=name, generation=generation, pid=1, status=-6, monotonic=0.0))
        process = ProcessId(pid=1, start_time=-1)
        return Child(name=name, generation=generation, process=process, directory=directory)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (None, "timeout", "`vm1`: boot stage `.*`: QEMU was killed by SIGABRT"),
        (HostError("no memory", hint="less"), "host", "`vm1`: boot stage `process`: no memory"),
    ],
)
async def test_a_boot_that_fails_in_a_recovery_is_told_to_whoever_waits_for_the_vm(
    state: TopologyState, error: VpctlError | None, kind: str, message: str
) -> None:
    broker: Any = FakeBroker(state.machines["vm1"], error=error)
    hands = Hands(state, lambda: broker, watch=lambda machine: None)
    state.machines["vm1"].set_state(VmState.RECOVERING)

    async def waits() -> None:
        with pytest.raises(RecoveryError, match="`vm1` is crashed"):
            await hands.until_ready("vm1")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(waits())
        with pytest.raises(VpctlError, match=message) as caught:
            await hands.boot("vm1")
    assert caught.value.code == kind
    argv = state.machines["vm1"].logs / "argv"
    assert f"its command line is in {argv}" in (caught.value.details or "")
    assert "qemu-system-x86_64 -name guest=vm1" in argv.read_text()


@pytest.mark.parametrize("kind", ["stream", "dgram", "ivshmem-doorbell", "vhost-pci"])
def test_the_end_of_a_qemu_takes_the_sockets_that_it_has_left_and_no_others(rundir: RunDir, kind: str) -> None:
    topology = made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm2", "vm3"), kind=kind)
    state = TopologyState(made_run(topology), rundir)
    left: dict[str, set[Path]] = {}
    for link in topology.links:
        for end in link.endpoints:
            device = plugged_device(state.run, link, 3, vm=end.vm, rundir=rundir)
            state.links[link.name].plugging(end.vm, 3)
            left.setdefault(end.vm, set()).update(Path(path) for path in device.sockets)
    for path in set().union(*left.values()):
        path.touch()
    state.forget("vm1")
    assert left["vm1"]
    assert not any(path.exists() for path in left["vm1"])
    assert all(path.exists() for path in left["vm3"])
    assert all(path.exists() for path in left["vm2"] - left["vm1"])
    state.unplugged("vm2", "lan1", 3)
    assert state.links["lan1"].plugged["vm2"] == []
    assert not any(path.exists() for path in plugged_sockets(state, "vm2", "lan1"))


def plugged_sockets(state: TopologyState, vm: str, link: str) -> list[Path]:
    spec = state.topology.link(link)
    return [Path(path) for path in plugged_device(state.run, spec, 3, vm=vm, rundir=state.rundir).sockets]


class Reached(Machine):
    """A VM whose QMP session is given."""

    session: Session

    async def qmp(self) -> Session:
        return self.session


async def test_a_vms_devices_come_and_go_one_at_a_time_so_that_no_guest_ejects_a_new_one(rundir: RunDir) -> None:
    state = TopologyState(made_run(made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))), rundir)
    machine = Reached("vm1", state.run, rundir, state.journal, state.save)
    state.machines["vm1"] = machine
    fake = FakeQemu(unplug_after=0.05)
    broker: Any = FakeBroker(machine)
    hands = Hands(state, lambda: broker, watch=lambda machine: None)
    path = rundir.qmp_socket("vm1")
    async with serving(path, fake), connect(path, vm="vm1", timeout=5) as machine.session, asyncio.timeout(10):
        for name in ("lan0", "lan1"):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(rundir.link_socket(name, 1)))
                listener.listen()
                repair = plan_repair(state.topology.link(name), state.links[name].view(), ["vm1", "vm2"])
                await hands.plug("vm1", repair)
        async with asyncio.TaskGroup() as group:
            for name in ("lan0", "lan1"):
                group.create_task(hands.unplug("vm1", name, 1))
    assert fake.names()[-4:] == ["device_del", "netdev_del"] * 2
    assert fake.parts == set()


def test_a_run_without_links_and_vms_is_a_world(rundir: RunDir) -> None:
    empty: Run = made_run(made_topology())
    assert TopologyState(empty, rundir).status()["vms"] == []


async def test_two_who_check_a_link_at_once_come_one_after_the_other(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user and a recovery, say: the receivers of the second would find their ports taken."""

    class Reachable(TopologyState):
        async def guests(self, link: str) -> Any:
            return None, None

    at_once: dict[str, int] = {"lan0": 0, "lan1": 0}
    most: dict[str, int] = {}

    async def check_link(link: Any, first: Any, second: Any) -> dict[str, Any]:
        at_once[link.name] += 1
        most[link.name] = max(most.get(link.name, 0), at_once[link.name])
        most["all"] = max(most.get("all", 0), sum(at_once.values()))
        await asyncio.sleep(0.01)
        at_once[link.name] -= 1
        return {"link": link.name, "ok": True, "tests": []}

    monkeypatch.setattr("vpctl.supervisor.state.traffic.check_link", check_link)
    state = Reachable(made_run(made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))), made(directories))
    async with asyncio.TaskGroup() as group:
        for links in (["lan0"], ["lan0"], ["lan1"]):
            group.create_task(state.check(links))
    assert most == {"lan0": 1, "lan1": 1, "all": 2}
