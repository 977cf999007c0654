"""Recoveries: a VM and its links brought back, tried again, verified, and the report that comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from vpctl import wait
from vpctl.errors import ReadyTimeoutError, RecoveryError, UsageError, VerificationError, VpctlError
from vpctl.links import LINK_KINDS
from vpctl.plan.link import virtio_net_end
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault, Incident
from vpctl.recovery.ops import Hands
from vpctl.recovery.plan import RecoveryPlan, plan_recovery
from vpctl.recovery.report import Recorder
from vpctl.recovery.retry import Attempts
from vpctl.recovery.state import LinkState, RingsView, VmState
from vpctl.supervisor.jobs import Jobs
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine
from vpctl.supervisor.watch import examine

LINK_FAULTS = frozenset({Fault.GUEST_REBOOT, Fault.BACKEND_LOST, Fault.DEVICE_LOST, Fault.DRIVER_WEDGED})
"""Those that cost links only: the VM is not created anew."""


PASSES = 8
"""Of one attempt: while a VM is recovered, links of its that were up may go down as well."""


LAST_BREATH_SECONDS = 2.0
"""For the end of a guest to be seen, once a check of its link broke off."""


class Recoveries:
    """Brings VMs back: by itself where the topology says so, else when asked."""

    def __init__(self, state: TopologyState, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs
        self.hands: Hands
        """Set right after construction: the hands watch what they boot, so each needs the other."""
        self._reports: dict[str, dict[str, Any]] = {}
        self._series: dict[str, Attempts] = {}
        """VM → how often it has died at once of late."""
        self.forgiven: set[str] = set()
        """The VMs whose next death is an injected one, which says nothing of them."""

    def is_automatic(self, vm: str) -> bool:
        """Whether a VM is brought back without being asked for: unless all of its links say `mode: manual`."""
        links = self._state.topology.links_of(vm)
        return not links or any(link.recovery.mode == "auto" for link in links)

    def start(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> dict[str, Any]:
        """Start the recovery of a VM, or join the one that runs; see `Jobs.start` and `recover`."""
        machine = self._state.machines[vm]
        dead = (VmState.CRASHED, VmState.STOPPED, VmState.FAILED)
        if not self._jobs.is_running(f"recover/{vm}") and machine.state in dead:
            # At once, so that a repair which waits for this VM knows that somebody works on it.
            machine.set_state(VmState.RECOVERING)
        return self._jobs.start(
            f"recover/{vm}",
            lambda: self.recover(vm, policy=policy, force=force, automatic=automatic),
            wishes=(policy, force) if policy is not None or force else None,
        )

    async def recover(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> dict[str, Any]:
        """Bring a VM and its links back and verify them; returns the contract's report.

        A VM that is well is left alone, unless `force`. `automatic`: nobody has asked, so links with `mode: manual`
        stay down. Raises RecoveryError if traffic could not be verified.
        """
        self.check_policy(vm, policy)
        machine = self._state.machines[vm]
        while machine.is_rebooting and not force:
            await machine.changed.wait()
        if machine.state is VmState.READY and machine.incident is None and not force:
            incident = None
            try:
                incident = await self._examine_while_ready(machine)
            except Exception as raised:
                error = self._state.foreseen(raised, name="examine", vm=vm)
                if machine.incident is None and machine.state is VmState.READY:
                    raise error from raised  # what has befallen it meanwhile is recovered all the same
            if incident is None and machine.incident is None and machine.state is VmState.READY:
                return self._healthy(vm)
            if machine.incident is None and incident is not None:  # nobody else was quicker
                machine.incident = incident
            if machine.incident is not None and machine.incident.fault not in LINK_FAULTS:
                machine.set_state(VmState.RECOVERING)
        elif force:
            machine.set_state(VmState.RECOVERING)
        recorder = self._recorder(machine, policy)
        if machine.state is VmState.READY and recorder.fault is Fault.GUEST_REBOOT:
            # What it does not find to be well is repaired.
            verify = partial(self._verify_after_reboot, machine, recorder)
            await self._state.contained(verify, name="verify-after-reboot", vm=vm)
        return await self._with_retries(machine, recorder, automatic=automatic, policy=policy)

    async def _examine_while_ready(self, machine: Machine) -> Incident | None:
        """Examine a VM, but no longer than until somebody has seen what ails it: what has ended does not answer."""
        async with asyncio.TaskGroup() as group:
            examining = group.create_task(self._examine(machine), name=f"examine-{machine.name}")
            while machine.state is VmState.READY and machine.incident is None and not examining.done():
                change = group.create_task(machine.changed.wait(), name=f"changes-of-{machine.name}")
                await asyncio.wait((examining, change), return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            if not examining.done():
                examining.cancel()
        return None if examining.cancelled() else examining.result()

    async def _examine(self, machine: Machine) -> Incident | None:
        """Look whether a VM that is believed to be well is; links that carry nothing are down from then on."""
        began = time.monotonic()
        reasons = []
        found = await examine.unresponsive(machine)
        if found is not None:
            fault, reason = found
            reasons.append(reason)
        else:
            broken = await examine.broken_links(self._state, machine.name)
            if not broken:
                return None
            fault = Fault.DRIVER_WEDGED
            for name, reason in broken.items():  # whatever was believed of it
                reasons.append(f"{name}: {reason}")
                self._state.links[name].set_state(LinkState.DOWN)
        attributes = {"fault": str(fault), "generation": machine.generation, "reason": "; ".join(reasons)}
        self._state.journal.write("fault", vm=machine.name, attributes=attributes)
        return Incident(fault=fault, at=began, detected_at=time.monotonic())

    async def _verify_after_reboot(self, machine: Machine, recorder: Recorder) -> None:
        """Look which links of a guest that has rebooted carry packets without repair."""
        recorder.boot_ms = machine.boot_ms
        for spec in self._state.topology.links_of(machine.name):
            link = self._state.links[spec.name]
            if not LINK_KINDS[spec.kind].outlives_reset(spec, machine.spec.vm):
                continue  # it is down, and gets a new device
            async with link.lock:
                with recorder.step("verify", spec.name):
                    checks = await self._state.probe(spec.name, count=1)
                if all(check["ok"] for check in checks):
                    link.set_state(LinkState.UP)
                    recorder.outages[spec.name] = recorder.since_fault()

    async def _with_retries(
        self, machine: Machine, recorder: Recorder, *, automatic: bool, policy: str | None
    ) -> dict[str, Any]:
        """Try as often as the VM's `health.retries` says, with growing pauses.

        A VM that died at once after its last recovery goes on where that one's count was, unless a user asks.
        """
        attempts = self._series_of(machine, automatic=automatic)
        if machine.incident is None:  # what a successor is to finish
            machine.incident = Incident(fault=recorder.fault, at=recorder.fault_at, detected_at=recorder.detected_at)
        error: VpctlError | None = None
        while (pause := attempts.next_pause()) is not None:
            while machine.is_rebooting:
                await machine.changed.wait()
            if not self._state.is_ready(machine.name):
                machine.set_state(VmState.RECOVERING)
            await wait.pause(pause)
            try:
                checks = await self._bring_back(machine, recorder, automatic=automatic, policy=policy)
                report = self._recovered(machine, recorder, checks)
            except Exception as raised:
                caught = self._state.foreseen(raised, name="recovery", vm=machine.name)
                error = error or caught
                attributes = {"attempt": attempts.attempt, "of": attempts.attempts, "error": caught.message}
                self._state.journal.write("recovery.step", vm=machine.name, attributes=attributes)
            else:
                attempts.recovered(time.monotonic())
                return report
        raise self._failed(machine, recorder, error or attempts.exhausted(machine.name)) from error

    async def _bring_back(
        self, machine: Machine, recorder: Recorder, *, automatic: bool, policy: str | None
    ) -> dict[str, Any]:
        """Carry a plan out, and check its links; again where something else of the VM went meanwhile.

        Returns what was checked last, all of it well.
        """
        names: list[str] = []
        for _ in range(PASSES):
            reboots = machine.reboots
            plan = self.plan(machine.name, automatic=automatic, policy=policy)
            names += [repair.link for repair in plan.repairs if repair.link not in names]
            for repair in plan.repairs:
                self._state.links[repair.link].asked = policy
            await execute.recover_vm(plan, self.hands, recorder)
            while machine.is_rebooting:  # a survivor that was reset, or that did so by itself
                await machine.changed.wait()
            if machine.state is VmState.READY and machine.reboots != reboots:
                await self._verify_after_reboot(machine, recorder)
            names += [name for name in recorder.outages if name not in names]
            if self._left(machine, automatic=automatic):
                continue
            checks = await self._check(names)
            self._require_ready(machine)
            if self._left(machine, automatic=automatic) or any("reason" in entry for entry in checks["links"]):
                continue
            if bad := [entry["link"] for entry in checks["links"] if not entry["ok"]]:
                hint = f"vpctl check --link {bad[0]}"
                raise VerificationError(f"after the recovery the check fails on `{bad[0]}`", hint=hint)
            return checks
        raise RecoveryError(f"links of `{machine.name}` go down again and again", hint="vpctl events")

    async def _check(self, links: list[str]) -> dict[str, Any]:
        """Check those of some links whose guests both live, as `TopologyState.check` does.

        A link whose other guest dies is brought back with that one, and says nothing against this recovery.
        """
        entries: list[dict[str, Any]] = []
        for link in links:
            if self._has_guests(link):
                try:
                    entries += (await self._state.check([link]))["links"]
                except VpctlError:
                    if not await self._loses_a_guest(link):
                        raise
        return {"schema_version": 1, "ok": all(entry["ok"] for entry in entries), "links": entries}

    def _has_guests(self, link: str) -> bool:
        return all(self._state.is_alive(end.vm) for end in self._state.topology.link(link).endpoints)

    async def _loses_a_guest(self, link: str) -> bool:
        """Whether a guest of a link is gone; its connection breaks a moment before that is seen."""

        async def gone() -> bool | None:
            return not self._has_guests(link) or None

        try:
            return await wait.until(gone, timeout=LAST_BREATH_SECONDS, what=f"the end of a guest of `{link}`")
        except ReadyTimeoutError:
            return False

    def _left(self, machine: Machine, *, automatic: bool) -> list[str]:
        """Return the links of a VM that are to be brought back, and could be, and are not up."""
        return [
            link.name
            for link in self._state.topology.links_of(machine.name)
            if (not automatic or link.recovery.mode == "auto")
            and self._has_guests(link.name)
            and self._wants_repair(link.name, automatic=automatic)
        ]

    def _wants_repair(self, link_name: str, *, automatic: bool) -> bool:
        """Whether a link between guests that live is not as it should be; whether one that rests is, a user says."""
        link = self._state.links[link_name]
        return link.state is not LinkState.UP and not (automatic and link.rests)

    def _require_ready(self, machine: Machine) -> None:
        if not self._state.is_ready(machine.name):
            raise RecoveryError(f"`{machine.name}` is {machine.state} again: {machine.reason or 'it died'}")

    def _series_of(self, machine: Machine, *, automatic: bool) -> Attempts:
        health_spec, incident = machine.spec.vm.health, machine.incident
        fresh = Attempts(attempts=max(1, health_spec.retries), backoff=health_spec.backoff)
        if incident is not None and incident.fault is Fault.DEVICE_LOST:
            return fresh  # somebody's will each time, and no sign that the VM will not live
        old = self._series.get(machine.name)
        died = incident.at if incident is not None else time.monotonic()
        goes_on = automatic and machine.name not in self.forgiven and old is not None and old.goes_on(died)
        self.forgiven.discard(machine.name)
        if old is None or not goes_on:
            old = self._series[machine.name] = fresh
        return old

    def _failed(self, machine: Machine, recorder: Recorder, error: VpctlError) -> RecoveryError:
        if machine.state is not VmState.READY:
            machine.set_state(VmState.FAILED, reason=error.message)
        machine.incident = None
        self._state.save()
        links = {
            link.name: self._state.links[link.name].state is LinkState.UP
            for link in self._state.topology.links_of(machine.name)
        }
        report = recorder.result(ok=False, total_ms=recorder.since_fault(), links=links)
        self._state.journal.write("recovery.end", vm=machine.name, attributes={**report, "error": error.message})
        hint = error.hint or f"vpctl logs {machine.name}; logs are in {machine.logs}"
        return RecoveryError(error.message, hint=hint, details=error.details)

    def _recovered(self, machine: Machine, recorder: Recorder, checks: dict[str, Any]) -> dict[str, Any]:
        """Write the report of a recovery down, whose links were checked last of all, and return it."""
        names = [entry["link"] for entry in checks["links"]]
        total_ms = max((recorder.outages.get(name, 0.0) for name in names), default=0.0) or recorder.since_fault()
        report = recorder.result(ok=True, total_ms=total_ms, links=dict.fromkeys(names, True))
        machine.incident = None
        self._state.save()  # or else a successor, whenever it comes, would finish what has ended
        self._reports[machine.name] = report
        self._state.journal.write("recovery.end", vm=machine.name, attributes=report)
        return {"schema_version": 1, **report, "check": checks}

    def _recorder(self, machine: Machine, policy: str | None) -> Recorder:
        now = time.monotonic()
        incident = machine.incident or Incident(fault=Fault.QEMU_EXIT, at=now, detected_at=now)
        policies = [link.recovery.policy for link in self._state.topology.links_of(machine.name)]
        return Recorder(
            vm=machine.name,
            fault=incident.fault,
            policy=policy or (policies[0] if policies else "replug"),
            fault_at=incident.at,
            detected_at=incident.detected_at,
            on_step=self.progress,
        )

    def progress(self, step: Mapping[str, Any]) -> None:
        """Write a finished step down."""
        attributes = {key: value for key, value in step.items() if key != "vm"}
        self._state.journal.write("recovery.step", vm=step["vm"] or None, attributes=attributes)

    def plan(
        self, vm: str, *, policy: str | None = None, force: bool = False, automatic: bool = False
    ) -> RecoveryPlan:
        """Plan a recovery from what is known now; see `recover`."""
        links = self._state.topology.links_of(vm)
        recreate = force or not self._state.is_ready(vm)
        return plan_recovery(
            [
                link
                for link in links
                if (not automatic or link.recovery.mode == "auto")
                and (recreate or self._wants_repair(link.name, automatic=automatic))
            ],
            vm,
            generation=self._state.machines[vm].generation,
            links={name: link.view() for name, link in self._state.links.items()},
            alive=[name for name in self._state.machines if self._state.is_alive(name)],
            recreate=recreate,
            rings={link.name: RingsView(vm=front) for link in links if (front := virtio_net_end(link)) is not None},
            policy=policy,
        )

    def check_policy(self, vm: str, policy: str | None) -> None:
        """Raise UsageError unless every link of a VM knows the policy."""
        for link in self._state.topology.links_of(vm) if policy is not None else ():
            known = LINK_KINDS[link.kind].rules.policies
            if policy not in known:
                message = f"link `{link.name}` of kind {link.kind} knows no policy `{policy}`"
                raise UsageError(message, hint=f"policies are {', '.join(known)}")

    def _healthy(self, vm: str) -> dict[str, Any]:
        """Return the report of a recovery that found nothing to do."""
        well = {"ok": True, "outage_ms": 0.0, "policy": None}
        links = [{"link": link.name, **well} for link in self._state.topology.links_of(vm)]
        times = dict.fromkeys(("detect_ms", "survivor_ms", "boot_ms", "total_ms", "overhead_ms"), 0.0)
        report = {"vm": vm, "fault": None, "policy": None, "ok": True, "steps": [], **times, "links": links}
        return {"schema_version": 1, "healthy": True, **report, "last": self._reports.get(vm)}
