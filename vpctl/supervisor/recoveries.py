"""Faults and recoveries: what is done when a VM ends, and the report that comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from vpctl import wait
from vpctl.errors import RecoveryError, UsageError, VerificationError, VpctlError
from vpctl.links import LINK_KINDS
from vpctl.plan.run import front_end
from vpctl.recovery import act
from vpctl.recovery.faults import Fault, fault_of_exit
from vpctl.recovery.plan import RecoveryPlan, plan_recovery
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import FrontView, LinkState, VmState
from vpctl.supervisor import health
from vpctl.supervisor.boot_report import Ended, describe_end
from vpctl.supervisor.control import Jobs
from vpctl.supervisor.machine import Machine
from vpctl.supervisor.world import World


class Recoveries:
    """Watches VMs, takes faults, and brings VMs back: by itself where the topology says so, else when asked."""

    def __init__(self, world: World, group: asyncio.TaskGroup, jobs: Jobs) -> None:
        self._world = world
        self._group = group
        self._jobs = jobs
        self.hands: act.Hands
        """Set right after construction: the hands watch what they boot, so each needs the other."""
        self._reports: dict[str, dict[str, Any]] = {}
        self.injected: dict[str, float] = {}
        """VM → when `crash` hit it (CLOCK_MONOTONIC): the fault's true time."""

    # Section: faults

    def watch(self, machine: Machine) -> None:
        """Wait for the end of a VM that is ready, or for its guest's reboot, and act on it."""
        machine.on_reset = lambda: self._take_reset(machine)
        self._group.create_task(self._await_end(machine, machine.generation), name=f"watch-{machine.name}")

    async def _await_end(self, machine: Machine, generation: int) -> None:
        assert machine.ended is not None
        ended = await asyncio.shield(machine.ended)
        if machine.generation == generation and self._world.is_alive(machine.name):
            self._take_fault(machine, ended)

    def _take_fault(self, machine: Machine, ended: Ended) -> None:
        fault, reason = fault_of_exit(ended.status, ended.signs), describe_end(ended)
        attributes = {"fault": str(fault), "generation": machine.generation, "status": ended.status, "reason": reason}
        self._world.journal.write("fault", vm=machine.name, attributes=attributes)
        for link in self._world.topology.links_of(machine.name):
            self._world.links[link.name].set_state(LinkState.DOWN)
        if ended.process_ended:
            self._world.forget(machine.name)
        if fault is Fault.GUEST_POWEROFF:
            machine.set_state(VmState.STOPPED, reason="the guest powered off")
            self._group.create_task(self._release(machine.name, machine.generation), name=f"release-{machine.name}")
            return
        machine.set_state(VmState.CRASHED, reason=reason)
        machine.fault = (fault, self.injected.pop(machine.name, ended.monotonic), time.monotonic())
        if self.is_automatic(machine.name):
            self.start(machine.name, automatic=True)

    async def _release(self, vm: str, generation: int) -> None:
        with contextlib.suppress(VpctlError):  # a broker that dies just now has it no more
            await self.hands.release(vm, generation)

    def _take_reset(self, machine: Machine) -> None:
        """The guest reboots: its QEMU, with every device in it, lives on."""
        reason = "the guest was reset"
        attributes = {"fault": str(Fault.GUEST_REBOOT), "generation": machine.generation, "reason": reason}
        self._world.journal.write("fault", vm=machine.name, attributes=attributes)
        machine.begin_reboot()
        for link in self._world.topology.links_of(machine.name):
            if self._world.links[link.name].state is LinkState.UP:
                self._world.links[link.name].set_state(LinkState.DOWN)
        self._group.create_task(self._await_reboot(machine, machine.generation), name=f"reboot-{machine.name}")

    async def _await_reboot(self, machine: Machine, generation: int) -> None:
        try:
            await machine.finish_reboot()
        except VpctlError as error:
            if machine.generation == generation and machine.is_rebooting:
                # A QEMU that ended is `_await_end`'s affair; this is a guest that does not come back.
                machine.set_state(VmState.CRASHED, reason=f"after a reboot: {error.message}")
                if self.is_automatic(machine.name):
                    self.start(machine.name, automatic=True)
        else:
            self.start(machine.name)  # it boots again in the same QEMU: links that went down only come up again

    def is_automatic(self, vm: str) -> bool:
        """Whether a VM is brought back without being asked for: unless all of its links say `mode: manual`."""
        links = self._world.topology.links_of(vm)
        return not links or any(link.recovery.mode == "auto" for link in links)

    # Section: recovery

    def start(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> dict[str, Any]:
        """Start the recovery of a VM, or join the one that runs; see `Jobs.start` and `recover`."""
        machine = self._world.machines[vm]
        dead = (VmState.CRASHED, VmState.STOPPED, VmState.FAILED)
        if not self._jobs.is_running(f"recover/{vm}") and machine.state in dead:
            # At once, so that a repair which waits for this VM knows that somebody works on it.
            machine.set_state(VmState.RECOVERING)
        return self._jobs.start(
            f"recover/{vm}", lambda: self.recover(vm, policy=policy, force=force, automatic=automatic)
        )

    async def recover(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> dict[str, Any]:
        """Bring a VM and its links back and verify them; returns the contract's report.

        A VM that is well is left alone, unless `force`. `automatic`: nobody has asked, so links with `mode: manual`
        stay down. Raises RecoveryError if traffic could not be verified.
        """
        self.check_policy(vm, policy)
        machine = self._world.machines[vm]
        while machine.is_rebooting and not force:
            await machine.changed.wait()
        recorder = self._recorder(machine, policy)
        if machine.state is VmState.READY and recorder.fault is Fault.GUEST_REBOOT and not force:
            return await self._after_reboot(machine, recorder)
        recreate = True
        if machine.state is VmState.READY and not force:
            reason = await health.unresponsive(machine)
            broken = await health.broken_links(self._world, vm) if reason is None else {}
            if reason is None and not broken:
                return self._healthy(vm)
            ills = [reason] if reason is not None else list(broken.values())
            self._world.journal.write("recovery.step", vm=vm, attributes={"name": "examine", "ills": ills})
            for name in broken:  # whatever was believed of it
                self._world.links[name].set_state(LinkState.DOWN)
            recreate = reason is not None
        if recreate:
            machine.set_state(VmState.RECOVERING)
        return await self._with_retries(machine, recorder, automatic=automatic, policy=policy)

    async def _after_reboot(self, machine: Machine, recorder: Recorder) -> dict[str, Any]:
        """Verify the links of a guest that has rebooted, and repair those that do not carry packets."""
        recorder.boot_ms = machine.boot_ms
        for link in self._world.topology.links_of(machine.name):
            known = self._world.links[link.name]
            if not LINK_KINDS[link.kind].outlives_reset(link, machine.spec.vm):
                continue  # it is down, and gets a new device
            async with known.lock:
                with recorder.step("verify", link.name):
                    checks = await self._world.probe(link.name, count=1)
                if all(check["ok"] for check in checks):
                    known.set_state(LinkState.UP)
                    recorder.outages[link.name] = recorder.since_fault()
        return await self._with_retries(machine, recorder, automatic=False)

    async def _with_retries(
        self, machine: Machine, recorder: Recorder, *, automatic: bool, policy: str | None = None
    ) -> dict[str, Any]:
        """Try as often as the VM's `health.retries` says, with growing pauses."""
        health_spec = machine.spec.vm.health
        pause, attempts = health_spec.backoff, max(1, health_spec.retries)
        for attempt in range(1, attempts + 1):
            try:
                plan = self.plan(machine.name, automatic=automatic, policy=policy)
                for repair in plan.repairs:
                    self._world.links[repair.link].asked = policy
                await act.recover_vm(plan, self.hands, recorder)
                return await self._recovered(machine, recorder, [repair.link for repair in plan.repairs])
            except VpctlError as error:
                attributes = {"attempt": attempt, "of": attempts, "error": error.message}
                self._world.journal.write("recovery.step", vm=machine.name, attributes=attributes)
                if attempt == attempts:
                    raise self._failed(machine, recorder, error) from error
            if not self._world.is_ready(machine.name):
                machine.set_state(VmState.RECOVERING)
            await wait.pause(pause)
            pause *= 2
        raise AssertionError("unreachable: there is at least one attempt")

    def _failed(self, machine: Machine, recorder: Recorder, error: VpctlError) -> RecoveryError:
        if machine.state is not VmState.READY:
            machine.set_state(VmState.FAILED, reason=error.message)
        links = {
            link.name: self._world.links[link.name].state is LinkState.UP
            for link in self._world.topology.links_of(machine.name)
        }
        report = recorder.result(ok=False, total_ms=recorder.since_fault(), links=links)
        self._world.journal.write("recovery.end", vm=machine.name, attributes={**report, "error": error.message})
        return RecoveryError(error.message, hint=error.hint or f"vpctl logs {machine.name}", details=error.details)

    async def _recovered(self, machine: Machine, recorder: Recorder, names: list[str]) -> dict[str, Any]:
        """Verify these links with the full check, write the report down, return it."""
        total_ms = max((recorder.outages.get(name, 0.0) for name in names), default=0.0) or recorder.since_fault()
        checks = await self._world.check(names)
        if bad := [entry["link"] for entry in checks["links"] if not entry["ok"]]:
            hint = f"vpctl check --link {bad[0]}"
            raise VerificationError(f"after the recovery the check fails on `{bad[0]}`", hint=hint)
        report = recorder.result(ok=True, total_ms=total_ms, links=dict.fromkeys(names, True))
        machine.fault = None
        self._reports[machine.name] = report
        self._world.journal.write("recovery.end", vm=machine.name, attributes=report)
        return {"schema_version": 1, **report, "check": checks}

    def _recorder(self, machine: Machine, policy: str | None) -> Recorder:
        now = time.monotonic()
        fault, at, detected = machine.fault or (Fault.QEMU_EXIT, now, now)
        policies = [link.recovery.policy for link in self._world.topology.links_of(machine.name)]
        return Recorder(
            vm=machine.name,
            fault=fault,
            policy=policy or (policies[0] if policies else "replug"),
            fault_at=at,
            detected_at=detected,
            on_step=self.progress,
        )

    def progress(self, step: Mapping[str, Any]) -> None:
        """Write a finished step down."""
        attributes = {key: value for key, value in step.items() if key != "vm"}
        self._world.journal.write("recovery.step", vm=step["vm"] or None, attributes=attributes)

    def plan(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> RecoveryPlan:
        """Plan a recovery from what is known now; see `recover`."""
        links = self._world.topology.links_of(vm)
        return plan_recovery(
            [link for link in links if not automatic or link.recovery.mode == "auto"],
            vm,
            generation=self._world.machines[vm].generation,
            links={name: link.view() for name, link in self._world.links.items()},
            alive=[name for name in self._world.machines if self._world.is_alive(name)],
            recreate=force or not self._world.is_ready(vm),
            fronts={link.name: FrontView(vm=front) for link in links if (front := front_end(link)) is not None},
            policy=policy,
        )

    def check_policy(self, vm: str, policy: str | None) -> None:
        """Raise UsageError unless every link of a VM knows the policy."""
        for link in self._world.topology.links_of(vm) if policy is not None else ():
            known = LINK_KINDS[link.kind].rules.policies
            if policy not in known:
                message = f"link `{link.name}` of kind {link.kind} knows no policy `{policy}`"
                raise UsageError(message, hint=f"policies are {', '.join(known)}")

    def _healthy(self, vm: str) -> dict[str, Any]:
        """Return the report of a recovery that found nothing to do."""
        links = [{"link": link.name, "ok": True, "outage_ms": 0.0} for link in self._world.topology.links_of(vm)]
        times = dict.fromkeys(("detect_ms", "survivor_ms", "boot_ms", "total_ms", "overhead_ms"), 0.0)
        report = {"vm": vm, "fault": None, "policy": None, "ok": True, "steps": [], **times, "links": links}
        return {"schema_version": 1, "healthy": True, **report, "last": self._reports.get(vm)}
