"""The supervisor of one topology: brings it up, watches it, repairs it, answers commands.

Everything it knows is written down at each change, so that a supervisor which was killed is followed by one that
takes over: running VMs are adopted, half-done boots go on, half-done repairs are begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vpctl import wait
from vpctl.broker.client import BrokerClient, BrokerGoneError, connect, start_broker
from vpctl.broker.protocol import Child, Exit, process_name
from vpctl.errors import (
    HostError,
    NotFoundError,
    RecoveryError,
    UsageError,
    VerificationError,
    VpctlError,
)
from vpctl.guest import heartbeat, network
from vpctl.plan.run import Run, plug_steps, plugged_device
from vpctl.qemu.argv import HEARTBEAT_CHARDEV, HEARTBEAT_RING_BYTES
from vpctl.qmp import hotplug
from vpctl.recovery import act
from vpctl.recovery.faults import Fault, fault_of_exit
from vpctl.recovery.plan import RecoveryPlan, Repair, plan_recovery, plan_repair
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import RunDir, read_json, write_json
from vpctl.supervisor.control import ControlServer, Jobs
from vpctl.supervisor.journal import Journal
from vpctl.supervisor.link import Link
from vpctl.supervisor.machine import Ended, Machine, describe_end

PROBES = 3
"""Echo requests per direction after the first that came back, when `up` verifies a link."""

BEAT_SECONDS = 5.0
"""For a new heartbeat while a VM is examined; the agent beats once a second."""

TAKEOVER_SECONDS = 10.0
"""For a broker that died to be replaced."""

CRASH_SEEN_SECONDS = 10.0
"""For an injected fault to be detected, before `crash` returns."""


class Supervisor:
    """Holds machines, links and jobs together; recovery's `Hands` are its methods."""

    def __init__(self, run: Run, rundir: RunDir) -> None:
        self._run = run
        self._rundir = rundir
        self._topology = run.topology
        self._journal = Journal(rundir.journal)
        self._journal.listeners.append(self._journalled)
        self._machines = {
            vm.name: Machine(vm.name, run, rundir, self._journal, self._save) for vm in self._topology.vms
        }
        self._links = {link.name: Link(link.name, self._journal, self._save) for link in self._topology.links}
        self._broker: BrokerClient | None = None
        self._broker_back = asyncio.Event()
        self._control = ControlServer(rundir.control_socket, self._command)
        self._group: asyncio.TaskGroup | None = None
        self._jobs: Jobs | None = None
        self._injected: dict[str, float] = {}
        """VM → when `crash` hit it (CLOCK_MONOTONIC): the fault's true time."""
        self._up: dict[str, Any] | None = None
        self._reports: dict[str, dict[str, Any]] = {}
        self._loaded = False

    async def run(self) -> None:
        """Take over what runs, bring up what does not, and serve until SIGTERM."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._jobs = Jobs(group, self._control.event)
                group.create_task(self._keep_broker(), name="broker")
                await self._broker_back.wait()
                await self._take_over()
                # The socket opens when there is something to tell, so that no client is told of a state
                # that its own supervisor has not looked at yet.
                group.create_task(self._control.run(), name="control")
                self._jobs.start("up", self._bring_up)
        finally:
            for machine in self._machines.values():
                with contextlib.suppress(Exception):
                    await machine.close()

    # Section: what is known, written down

    def _save(self) -> None:
        if not self._loaded:
            return
        with contextlib.suppress(HostError):  # a full disk costs the successor's knowledge, not the guests
            write_json(self._rundir.status, self.status())

    def status(self) -> dict[str, Any]:
        """Return the contract's `status`, with what a successor needs in extra keys."""
        import os

        links = []
        for spec in self._topology.links:
            ends = [
                {"vm": end.vm, "interface": spec.name, "address": str(end.address), "mac": end.mac}
                for end in spec.endpoints
            ]
            links.append({**self._links[spec.name].as_json(), "kind": spec.kind, "endpoints": ends})
        return {
            "schema_version": 1,
            "name": self._topology.name,
            "state": self._overall(),
            "supervisor": {"pid": os.getpid()},
            "run_id": self._run.run_id,
            "source": self._run.source,
            "vms": [machine.as_json() for machine in self._machines.values()],
            "links": links,
            "up": self._up,
        }

    def _overall(self) -> str:
        states = [machine.state for machine in self._machines.values()]
        links = [link.state for link in self._links.values()]
        if all(s is VmState.READY for s in states) and all(s is LinkState.UP for s in links):
            return "up"
        if any(s in (VmState.STARTING, VmState.BOOTING) for s in states) and self._up is None:
            return "starting"
        return "degraded"

    def _journalled(self, entry: Mapping[str, Any]) -> None:
        """Pass a journal entry on: to the machine it concerns, and to every client."""
        if entry["type"] == "qmp.event":
            self._machines[entry["vm"]].take_event(entry["attributes"])
        elif entry["type"] == "qmp.command":
            return  # many, and in the journal; clients that want them read it
        self._control.event("JOURNAL", dict(entry))

    # Section: the broker

    @property
    def broker(self) -> BrokerClient:
        """The connection to the broker; BrokerGoneError while there is none."""
        if self._broker is None:
            raise BrokerGoneError("the broker is gone")
        return self._broker

    async def _keep_broker(self) -> None:
        """Stay connected to the broker; when it dies, start another, which adopts the QEMUs."""
        died: float | None = None
        while True:
            try:
                async with connect(self._rundir) as client:
                    self._broker = client
                    if died is not None:
                        await self._after_broker_exit(client, died)
                    self._broker_back.set()
                    await self._take_exits(client)
            except BrokerGoneError:
                pass
            self._broker = None
            self._broker_back.clear()
            if self._rundir.stopping.exists() or not self._rundir.run.exists():
                raise SystemExit(0)
            if died is None or time.monotonic() - died > TAKEOVER_SECONDS:
                died = time.monotonic()
                self._journal.write("fault", attributes={"fault": str(Fault.BROKER_EXIT)})
            await self._start_broker()

    async def _start_broker(self) -> None:
        try:
            await start_broker(self._rundir)
        except VpctlError as error:
            self._journal.write("fault", attributes={"fault": str(Fault.BROKER_EXIT), "error": error.message})
            await wait.pause(0.2)

    async def _after_broker_exit(self, client: BrokerClient, died: float) -> None:
        """Say that a new broker is there, and find the QEMUs whose end nobody saw."""
        running = {child.name: child for child in await client.list()}
        for name, machine in self._machines.items():
            child = running.get(process_name(name))
            if machine.process is not None and (child is None or child.process != machine.process):
                pid = machine.process.pid
                self._take_exit(
                    Exit(name=process_name(name), generation=machine.generation, pid=pid, status=None, monotonic=died)
                )
        report = {
            "fault": str(Fault.BROKER_EXIT),
            "ok": True,
            "total_ms": round((time.monotonic() - died) * 1000, 1),
            "adopted": sorted(name for name in running if name != "supervisor"),
        }
        self._journal.write("recovery.end", attributes=report)

    async def _take_exits(self, client: BrokerClient) -> None:
        """Take in the ends of processes until the broker is gone."""
        gone = asyncio.ensure_future(client.lost.wait())
        try:
            while True:
                news = asyncio.ensure_future(client.exits.get())
                await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not news.done():
                    news.cancel()
                    return
                self._take_exit(news.result())
        finally:
            gone.cancel()

    def _take_exit(self, exit_: Exit) -> None:
        kind, _, vm = exit_.name.partition("/")
        if kind == "vm" and vm in self._machines:
            self._machines[vm].take_exit(exit_)

    # Section: taking over

    async def _take_over(self) -> None:
        """Adopt what the supervisor before this one has left; nothing at a first start."""
        record = read_json(self._rundir.status)
        children = {child.name: child for child in await self.broker.list()}
        if isinstance(record, dict) and record.get("run_id") == self._run.run_id:
            self._up = record.get("up")
            for entry in record["links"]:
                self._links[entry["name"]].restore(entry)
            for entry in record["vms"]:
                await self._adopt(entry, children.get(process_name(entry["name"])))
            self._journal.write("fault", attributes={"fault": "supervisor-exit", "adopted": sorted(children)})
        self._loaded = True
        self._save()

    async def _adopt(self, entry: Mapping[str, Any], child: Child | None) -> None:
        machine = self._machines[entry["name"]]
        state = VmState(entry["state"])
        machine.restore(entry)
        if child is not None and state in (VmState.READY, VmState.STARTING, VmState.BOOTING, VmState.RECOVERING):
            await machine.adopt(child, ready=state is VmState.READY)
            if state is VmState.READY:
                self._watch(machine)
        elif child is None and state is VmState.READY:
            # It ended while nobody looked: the broker wrote down how.
            found = machine.recorded_exit()
            exit_ = found or Exit(
                name=machine.name, generation=machine.generation, pid=0, status=None, monotonic=time.monotonic()
            )
            machine.lost_unseen(exit_)
            self._watch(machine)

    # Section: up

    async def _bring_up(self) -> dict[str, Any]:
        """Bring everything to where the topology says it should be; `up`, and a takeover, are this."""
        recorder = self._recorder_for_up()
        async with asyncio.TaskGroup() as group:
            boots = [
                group.create_task(self._bring_up_vm(machine), name=f"up-{name}")
                for name, machine in self._machines.items()
            ]
            connecting = group.create_task(act.connect_links(list(self._links), self, recorder), name="connect-links")
        boot_errors = [error for boot in boots if (error := boot.result()) is not None]
        if boot_errors:
            return await self._up_failed(boot_errors[0])
        link_errors = connecting.result()
        for error in link_errors:
            if not isinstance(error, VerificationError):
                return await self._up_failed(error)
        checks = await self._probe_links()
        timings = [entry for machine in self._machines.values() for entry in machine.timings]
        timings += [{"vm": s["target"].split("/")[0], "stage": s["name"], "ms": s["ms"]} for s in recorder.steps]
        self._up = {"timings": timings, "checks": checks}
        self._save()
        if link_errors:
            raise link_errors[0]
        network.require(checks)
        return {**self.status(), **self._up}

    def _recorder_for_up(self) -> Recorder:
        now = time.monotonic()
        return Recorder(
            vm="", fault=Fault.QEMU_EXIT, policy="up", fault_at=now, detected_at=now, on_step=self._progress
        )

    def _progress(self, step: Mapping[str, Any]) -> None:
        self._journal.write("recovery.step", vm=step["vm"] or None, attributes=dict(step))

    async def _bring_up_vm(self, machine: Machine) -> VpctlError | None:
        """Boot a VM that does not run, or see an adopted boot through; returns the error, so that others go on."""
        try:
            if machine.needs_resume:
                await machine.resume(self.broker)
            elif machine.state is VmState.STARTING:
                await machine.boot(self.broker)
            elif machine.state in (VmState.READY, VmState.RECOVERING):
                return None
            else:
                await self.recover(machine.name, policy=None, force=False)
                return None
        except VpctlError as error:
            machine.set_state(VmState.FAILED, reason=error.message)
            return error
        self._watch(machine)
        return None

    async def _up_failed(self, error: VpctlError) -> dict[str, Any]:
        """End everything but the logs, unless the user wants to look at it; always raises `error`."""
        self._journal.write("command", attributes={"command": "up", "error": error.message})
        if not self._run.keep:
            assert self._group is not None
            self._group.create_task(self._stop_soon(), name="stop")
        raise error

    async def _stop_soon(self) -> None:
        await wait.pause(0.2)  # the clients are told first
        with contextlib.suppress(VpctlError):
            await self.broker.stop()

    async def _probe_links(self) -> list[dict[str, Any]]:
        """Probe every link in both directions; see `network.probe` for the entries."""
        checks: list[dict[str, Any]] = []
        for spec in self._topology.links:
            checks += await self._probe(spec.name, count=PROBES)
        return checks

    async def _probe(self, link: str, *, count: int) -> list[dict[str, Any]]:
        spec = self._topology.link(link)
        try:
            first, second = await self._guests(link)
        except VpctlError as error:
            one, other = (end.vm for end in spec.endpoints)
            entry = {"link": link, "ok": False, "loss_percent": 100.0, "rtt_ms": None, "reason": error.message}
            return [{**entry, "from": one, "to": other}, {**entry, "from": other, "to": one}]
        return await network.probe_both_ways(spec, first, second, count=count)

    async def _guests(self, link: str) -> tuple[network.Guest, network.Guest]:
        one, other = self._topology.link(link).endpoints
        return (
            network.Guest(end=one, ssh=await self._machines[one.vm].ssh()),
            network.Guest(end=other, ssh=await self._machines[other.vm].ssh()),
        )

    # Section: faults

    def _watch(self, machine: Machine) -> None:
        """Wait for the end of a VM that is ready, and act on it."""
        assert self._group is not None
        self._group.create_task(self._await_end(machine, machine.generation), name=f"watch-{machine.name}")

    async def _await_end(self, machine: Machine, generation: int) -> None:
        assert machine.ended is not None
        ended = await asyncio.shield(machine.ended)
        if machine.generation == generation and machine.state is VmState.READY:
            self._take_fault(machine, ended)

    def _take_fault(self, machine: Machine, ended: Ended) -> None:
        fault = fault_of_exit(ended.status, ended.signs)
        attributes = {
            "fault": str(fault),
            "generation": machine.generation,
            "status": ended.status,
            "reason": describe_end(ended),
        }
        self._journal.write("fault", vm=machine.name, attributes=attributes)
        for link in self._topology.links_of(machine.name):
            self._links[link.name].set_state(LinkState.DOWN)
            self._links[link.name].forget(machine.name)
        if fault is Fault.GUEST_POWEROFF:
            machine.set_state(VmState.STOPPED, reason="the guest powered off")
            return
        machine.set_state(VmState.CRASHED, reason=describe_end(ended))
        machine.fault = (fault, self._injected.pop(machine.name, ended.monotonic), time.monotonic())
        links = self._topology.links_of(machine.name)
        if not links or any(link.recovery.mode == "auto" for link in links):
            self._start_recovery(machine.name, policy=None, force=False)

    # Section: recovery

    def _start_recovery(self, vm: str, *, policy: str | None, force: bool) -> dict[str, Any]:
        assert self._jobs is not None
        if not self._jobs.is_running(f"recover/{vm}") and self._machines[vm].state is VmState.CRASHED:
            # At once, so that a repair which waits for this VM knows that somebody works on it.
            self._machines[vm].set_state(VmState.RECOVERING)
        return self._jobs.start(f"recover/{vm}", lambda: self.recover(vm, policy=policy, force=force))

    async def recover(self, vm: str, *, policy: str | None, force: bool) -> dict[str, Any]:
        """Bring a VM and its links back and verify them; the report of the contract. RecoveryError if that failed."""
        self._check_policy(vm, policy)
        machine = self._machines[vm]
        if machine.state is VmState.READY and not force:
            ills = await self._ills(vm)
            if not ills:
                last = self._reports.get(vm)
                return {"schema_version": 1, "healthy": True, **_healthy_report(self._topology, vm), "last": last}
            self._journal.write("fault", vm=vm, attributes={"fault": "unhealthy", "reasons": ills})
        recorder = self._recorder(machine)
        if machine.state is not VmState.READY or force or not await self._is_responsive(machine):
            machine.set_state(VmState.RECOVERING)
        return await self._recover_with_retries(machine, recorder)

    async def _recover_with_retries(self, machine: Machine, recorder: Recorder) -> dict[str, Any]:
        """Try as often as the VM's `health.retries` says, with growing pauses."""
        health = machine.spec.vm.health
        pause = health.backoff
        for attempt in range(1, health.retries + 1):
            try:
                await act.recover_vm(self.recovery_plan(machine.name), self, recorder)
                return await self._recovered(machine, recorder)
            except VpctlError as error:
                attributes = {"attempt": attempt, "of": health.retries, "error": error.message}
                self._journal.write("recovery.step", vm=machine.name, attributes=attributes)
                if attempt == health.retries:
                    raise self._recovery_failed(machine, recorder, error) from error
            await wait.pause(pause)
            pause *= 2
        raise AssertionError("unreachable: retries is at least 1")

    def _recovery_failed(self, machine: Machine, recorder: Recorder, error: VpctlError) -> RecoveryError:
        if machine.state is not VmState.READY:
            machine.set_state(VmState.FAILED, reason=error.message)
        links = {link.name: False for link in self._topology.links_of(machine.name)}
        report = recorder.result(ok=False, total_ms=recorder.since_fault(), links=links)
        self._journal.write("recovery.end", vm=machine.name, attributes={**report, "error": error.message})
        hint = error.hint or f"vpctl logs {machine.name}"
        return RecoveryError(error.message, hint=hint, details=error.details)

    async def _recovered(self, machine: Machine, recorder: Recorder) -> dict[str, Any]:
        """Verify with the full check, write the report down, return it."""
        names = [link.name for link in self._topology.links_of(machine.name)]
        total_ms = max((recorder.outages.get(name, 0.0) for name in names), default=recorder.since_fault())
        checks = await self.check(names)
        bad = [entry["link"] for entry in checks["links"] if not entry["ok"]]
        if bad:
            raise VerificationError(
                f"after recovery the check fails on `{bad[0]}`", hint=f"vpctl check --link {bad[0]}"
            )
        report = recorder.result(ok=True, total_ms=total_ms, links=dict.fromkeys(names, True))
        machine.fault = None
        self._reports[machine.name] = report
        self._journal.write("recovery.end", vm=machine.name, attributes=report)
        return {"schema_version": 1, **report, "check": checks}

    def _recorder(self, machine: Machine) -> Recorder:
        now = time.monotonic()
        fault, at, detected = machine.fault or (Fault.QEMU_EXIT, now, now)
        policies = [link.recovery.policy for link in self._topology.links_of(machine.name)]
        return Recorder(
            vm=machine.name,
            fault=fault,
            policy=policies[0] if policies else "replug",
            fault_at=at,
            detected_at=detected,
            on_step=self._progress,
        )

    def recovery_plan(self, vm: str) -> RecoveryPlan:
        """Plan a recovery from what is known now."""
        alive = [name for name in self._machines if self.is_alive(name)]
        return plan_recovery(
            self._topology,
            vm,
            generation=self._machines[vm].generation,
            links={name: link.view() for name, link in self._links.items()},
            alive=alive,
            recreate=not self.is_alive(vm),
        )

    def _check_policy(self, vm: str, policy: str | None) -> None:
        from vpctl.links import LINK_KINDS

        if policy is None:
            return
        for link in self._topology.links_of(vm):
            known = LINK_KINDS[link.kind].rules.policies
            if policy not in known:
                raise UsageError(
                    f"link `{link.name}` of kind {link.kind} knows no policy `{policy}`",
                    hint=f"policies are {', '.join(known)}",
                )

    async def _ills(self, vm: str) -> list[str]:
        """Return what is wrong with a VM that claims to be ready: QMP, heartbeat, links; nothing if it is well."""
        machine = self._machines[vm]
        if not await self._is_responsive(machine):
            return [f"{vm} does not respond"]
        checks: list[dict[str, Any]] = []
        for link in self._topology.links_of(vm):
            if self._machines[link.peer_of(vm).vm].state is VmState.READY:
                checks += await self._probe(link.name, count=1)
        return [check["reason"] for check in checks if not check["ok"]]

    async def _is_responsive(self, machine: Machine) -> bool:
        """Whether QMP answers, the VM runs, and a heartbeat comes that was not there before."""
        try:
            session = await machine.qmp()
            if (await session.execute("query-status"))["status"] != "running":
                return False
            if machine.spec.vm.image.name is None:
                await machine.ssh()  # an own image need not have the agent
                return True
            before = await self._last_beat(machine)

            async def newer() -> bool | None:
                return await self._last_beat(machine) > before or None

            await wait.until(newer, timeout=BEAT_SECONDS, what=f"{machine.name}: heartbeat", every=0.1)
        except VpctlError:
            return False
        return True

    async def _last_beat(self, machine: Machine) -> int:
        session = await machine.qmp()
        text = await session.execute("ringbuf-read", {"device": HEARTBEAT_CHARDEV, "size": HEARTBEAT_RING_BYTES})
        machine.beats += heartbeat.parse(text)
        machine.beats = machine.beats[-1:]
        return machine.beats[-1].seq if machine.beats else -1

    # Section: recovery's hands

    async def fence(self, vm: str) -> None:
        await self._machines[vm].fence(self.broker)
        for link in self._topology.links_of(vm):
            self._links[link.name].forget(vm)

    async def boot(self, vm: str) -> float:
        machine = self._machines[vm]
        ms = await machine.boot(self.broker)
        self._watch(machine)
        return ms

    async def until_ready(self, vm: str) -> None:
        machine = self._machines[vm]
        while machine.state is not VmState.READY:
            if machine.state in (VmState.FAILED, VmState.STOPPED, VmState.CRASHED):
                raise RecoveryError(f"`{vm}` is {machine.state}", hint=f"vpctl recover {vm}")
            await machine.changed.wait()

    def is_alive(self, vm: str) -> bool:
        return self._machines[vm].state is VmState.READY

    def link_lock(self, link: str) -> asyncio.Lock:
        return self._links[link].lock

    def link_broken(self, link: str) -> None:
        self._links[link].set_state(LinkState.FAILED)

    def repair_of(self, link: str) -> Repair | None:
        spec, known = self._topology.link(link), self._links[link]
        alive = [end.vm for end in spec.endpoints if self.is_alive(end.vm)]
        whole = all(known.plugged.get(end.vm) == [known.generation] for end in spec.endpoints)
        if known.state is LinkState.UP and whole and len(alive) == len(spec.endpoints):
            return None
        repair = plan_repair(spec, known.view(), alive)
        known.begin(repair.generation)
        return repair

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        spec = self._topology.link(link)
        device = plugged_device(self._topology, spec, generation, vm=vm, rundir=self._rundir)
        session = await self._machines[vm].qmp()
        await hotplug.unplug(session, device.ids(), on_stuck=spec.recovery.on_stuck)
        self._links[link].unplugged(vm, generation)
        self._rundir.link_socket(link, generation).unlink(missing_ok=True)

    async def plug(self, vm: str, repair: Repair) -> None:
        spec = self._topology.link(repair.link)
        steps = plug_steps(self._topology, spec, repair.generation, first=repair.first, rundir=self._rundir)
        (device,) = (step.device for step in steps if step.vm == vm)
        session = await self._machines[vm].qmp()
        self._links[repair.link].plugging(vm, repair.generation)
        await hotplug.plug(session, device)

    async def prove(self, link: str) -> None:
        network.require(await self._probe(link, count=1))
        self._links[link].set_state(LinkState.UP)

    # Section: commands

    async def check(self, links: list[str]) -> dict[str, Any]:
        """Run the full check on some links; `check` of the contract."""
        results = []
        for name in links:
            first, second = await self._guests(name)
            entry = await network.check_link(self._topology.link(name), first, second)
            results.append(entry)
            self._journal.write("check", link=name, attributes={"ok": entry["ok"], "tests": len(entry["tests"])})
        return {"schema_version": 1, "ok": all(entry["ok"] for entry in results), "links": results}

    async def crash(self, vm: str, how: str) -> dict[str, Any]:
        """Inject a fault and return when it was detected."""
        machine = self._machines[vm]
        if machine.process is None or machine.state is not VmState.READY:
            raise NotFoundError(f"VM `{vm}` is {machine.state}, not ready", hint="vpctl status")
        if how != "kill":
            raise UsageError(f"no way to crash a VM by `{how}`", hint="`--how kill`")
        pid = machine.process.pid
        self._journal.write("command", vm=vm, attributes={"command": "crash", "how": how, "pid": pid})
        changed = machine.changed
        self._injected[vm] = time.monotonic()
        machine.process.signal(signal.SIGKILL)
        async with asyncio.timeout(CRASH_SEEN_SECONDS):
            while machine.state is VmState.READY:
                await changed.wait()
                changed = machine.changed
        return {"schema_version": 1, "vm": vm, "how": how, "pid": pid}

    async def _command(self, command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Execute a command of the control socket."""
        verbs: dict[str, Callable[..., Awaitable[Mapping[str, Any]]]] = {
            "query-status": self._do_status,
            "up": self._do_up,
            "check": self._do_check,
            "crash": self._do_crash,
            "recover": self._do_recover,
            "query-recovery-plan": self._do_plan,
        }
        if command not in verbs:
            raise UsageError(f"unknown command `{command}`", hint=f"commands are {', '.join(sorted(verbs))}")
        try:
            return await verbs[command](**arguments)
        except TypeError as error:
            raise UsageError(f"`{command}`: {error}") from error

    async def _do_status(self) -> Mapping[str, Any]:
        return self.status()

    async def _do_up(self) -> Mapping[str, Any]:
        assert self._jobs is not None
        return self._jobs.start("up", self._bring_up)

    async def _do_check(self, links: list[str] | None = None) -> Mapping[str, Any]:
        assert self._jobs is not None
        names = links or list(self._links)
        for name in names:
            self._require_link(name)
        return self._jobs.start("check/" + ",".join(names), lambda: self.check(names))

    async def _do_crash(self, vm: str, how: str) -> Mapping[str, Any]:
        self._require_vm(vm)
        return await self.crash(vm, how)

    async def _do_recover(self, vm: str, policy: str | None = None, force: bool = False) -> Mapping[str, Any]:
        self._require_vm(vm)
        self._check_policy(vm, policy)
        return self._start_recovery(vm, policy=policy, force=force)

    async def _do_plan(self, vm: str) -> Mapping[str, Any]:
        self._require_vm(vm)
        return {
            "vm": vm,
            "steps": [{"name": name, "target": target} for name, target in self.recovery_plan(vm).lines()],
        }

    def _require_vm(self, vm: str) -> None:
        if vm not in self._machines:
            known = ", ".join(f"`{name}`" for name in self._machines)
            raise NotFoundError(f"no VM named `{vm}` in `{self._topology.name}`", hint=f"VMs are {known}")

    def _require_link(self, link: str) -> None:
        if link not in self._links:
            known = ", ".join(f"`{name}`" for name in self._links) or "none"
            raise NotFoundError(f"no link named `{link}` in `{self._topology.name}`", hint=f"links are {known}")


def _healthy_report(topology: Any, vm: str) -> dict[str, Any]:
    """Return the report of a recovery that found nothing to do."""
    links = [{"link": link.name, "ok": True, "outage_ms": 0.0} for link in topology.links_of(vm)]
    times = dict.fromkeys(("detect_ms", "survivor_ms", "boot_ms", "total_ms", "overhead_ms"), 0.0)
    return {"vm": vm, "fault": None, "policy": None, "ok": True, "steps": [], **times, "links": links}
