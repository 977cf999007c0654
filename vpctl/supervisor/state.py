"""What there is of a topology at one moment: its VMs, its links, the journal, and the way to write it all down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vpctl import wait
from vpctl.errors import HostError, InternalError, NotFoundError, VerificationError, VpctlError, cause_of
from vpctl.guest import traffic
from vpctl.guest.drivers import NO_INTERFACE, why_no_interface
from vpctl.guest.heartbeat import EndState, LinkEnd
from vpctl.host.firewall import firewall_sees_bridges, suspected
from vpctl.journal import Journal
from vpctl.log_files import LIMIT_SECONDS, limit
from vpctl.plan.link import host_network, plugged_device
from vpctl.plan.run import Run
from vpctl.process_record import SUPERVISOR
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import RunDir, write_json
from vpctl.supervisor.link import Link
from vpctl.supervisor.vm.heartbeats import last_beat
from vpctl.supervisor.vm.machine import Machine
from vpctl.tasks import ONCE, Again, Failure, contained, described, guarded
from vpctl.topology.model import Endpoint

BEAT_SECONDS = 1.0
"""For QEMU to hand out the newest heartbeat, which takes a millisecond."""


class LinkDownError(VerificationError):
    """A link went down, or one of its guests was paused, before a check was done."""


MOST_PROBES = 4
"""Of one VM at once: a guest that QEMU emulates starts a command in half a second, 48 at once in half a minute."""


class TopologyState:
    """The topology as it is now; written down at every change, so that a successor can take over."""

    def __init__(self, run: Run, rundir: RunDir) -> None:
        self.run = run
        self.rundir = rundir
        self.topology = run.topology
        self.journal = Journal(rundir.journal)
        self.machines = {vm.name: Machine(vm.name, run, rundir, self.journal, self.save) for vm in run.topology.vms}
        self.links = {link.name: Link(link.name, self.journal, self.save) for link in run.topology.links}
        self.up: dict[str, Any] | None = None
        """What `up` measured and checked, once it has."""
        self._probing = {vm.name: asyncio.Semaphore(MOST_PROBES) for vm in run.topology.vms}
        self.loaded = False
        """Whether what a predecessor wrote down was read: before that nothing may overwrite it."""

    async def keep_logs_limited(self) -> None:
        """See to it for ever that no log of this topology grows without limit."""
        while True:
            for machine in self.machines.values():
                machine.limit_logs()
            for service in ("broker", "supervisor"):
                limit(self.rundir.service_log(service))
            await wait.pause(LIMIT_SECONDS)

    def save(self) -> None:
        """Write everything down; called at every change."""
        if not self.loaded:
            return
        with contextlib.suppress(HostError):  # a full disk costs the successor's knowledge, not the guests
            write_json(self.rundir.status, self.status())

    def status(self) -> dict[str, Any]:
        """Return the contract's `status`, with what a successor needs in extra keys."""
        links = []
        for spec in self.topology.links:
            ends = [
                {
                    "vm": end.vm,
                    "interface": spec.name,
                    "address": str(end.address),
                    "mac": end.mac,
                    "use": self._end(spec.name, end.vm).use,
                }
                for end in spec.endpoints
            ]
            links.append({**self.links[spec.name].as_json(), "kind": spec.kind, "endpoints": ends})
        return {
            "schema_version": 1,
            "name": self.topology.name,
            "state": self._overall(),
            "supervisor": {"pid": os.getpid()},
            "run_id": self.run.run_id,
            "source": self.run.source,
            "vms": [machine.as_json() for machine in self.machines.values()],
            "links": links,
            "up": self.up,
        }

    def _overall(self) -> str:
        states = [machine.state for machine in self.machines.values()]
        running = all(s is VmState.READY for s in states) and not any(m.is_paused for m in self.machines.values())
        if running and all(link.state is LinkState.UP for link in self.links.values()):
            return "up"
        return "starting" if self.up is None and VmState.FAILED not in states else "degraded"

    # Section: what was not foreseen

    def contained(
        self,
        work: Callable[[], Awaitable[object]],
        *,
        name: str,
        vm: str | None = None,
        link: str | None = None,
        again: Again = ONCE,
    ) -> Coroutine[Any, Any, bool]:
        """Return work of one VM or link as a task that ends no other, see `tasks.contained`; what it raises is
        journalled."""
        return contained(work, partial(self._failure, vm, link), name=name, again=again)

    def guarded(
        self, work: Callable[[], object], *, name: str, vm: str | None = None, link: str | None = None
    ) -> bool:
        """Call a function, as `contained` awaits one."""
        return guarded(work, partial(self._failure, vm, link), name=name)

    def foreseen(self, error: Exception, *, name: str, vm: str | None = None, link: str | None = None) -> VpctlError:
        """Return an exception as an error that is counted and told like any other of the work `name`.

        One of ours, the first cause of a group for instance, is returned as it is. Any other is a mistake in this
        program: journalled with its traceback, and returned as an InternalError.
        """
        cause = cause_of(error)
        if isinstance(cause, VpctlError):
            return cause
        self._failure(vm, link, Failure(work=name, error=error, attempt=1, pause=None))
        hint = f"`vpctl events` has its traceback, {self.rundir.service_log(SUPERVISOR)} too; please report it"
        return InternalError(described(cause), hint=hint)

    def _failure(self, vm: str | None, link: str | None, failure: Failure) -> None:
        print(f"{failure.work}: {failure.traceback}", file=sys.stderr, flush=True)
        attributes = {
            "warning": "internal",
            "work": failure.work,
            "error": failure.message,
            "attempt": failure.attempt,
            "again_in": failure.pause,
            "traceback": failure.traceback,
        }
        self.journal.write("warning", vm=vm, link=link, attributes=attributes)

    # Section: VMs and links

    def unplugged(self, vm: str, link: str, generation: int) -> None:
        """A device is gone for certain: take it off the list, and away what it has left."""
        device = plugged_device(self.run, self.topology.link(link), generation, vm=vm, rundir=self.rundir)
        for path in device.sockets:
            Path(path).unlink(missing_ok=True)
        self.links[link].unplugged(vm, generation)

    def forget(self, vm: str) -> None:
        """A VM's QEMU is gone, and every device with it."""
        for link in self.topology.links_of(vm):
            for generation in self.links[link.name].view().plugged.get(vm, ()):
                self.unplugged(vm, link.name, generation)
            self.links[link.name].forget(vm)

    def is_ready(self, vm: str) -> bool:
        """Whether a VM is ready."""
        return self.machines[vm].state is VmState.READY

    def paused(self, link: str) -> list[str]:
        """Return the VMs of a link whose vCPUs were stopped by a user."""
        ends = self.topology.link(link).endpoints
        return [end.vm for end in ends if self.machines[end.vm].is_paused]

    async def until_paused(self, link: str) -> list[str]:
        """Wait until a VM of a link is paused; return which."""
        machines = [self.machines[end.vm] for end in self.topology.link(link).endpoints]
        while not (paused := self.paused(link)):
            changes = [asyncio.ensure_future(machine.changed.wait()) for machine in machines]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()
        return paused

    def is_alive(self, vm: str) -> bool:
        """Whether a VM's guest is ready, or reboots in a QEMU that keeps all its devices."""
        return self.is_ready(vm) or self.machines[vm].is_rebooting

    async def guests(self, link: str) -> tuple[traffic.Guest, traffic.Guest]:
        """Return both ends of a link with an ssh connection each; NotFoundError if a VM is not ready."""
        first, second = self.topology.link(link).endpoints
        return await self._guest(first), await self._guest(second)

    async def _guest(self, end: Endpoint) -> traffic.Guest:
        machine = self.machines[end.vm]
        return traffic.Guest(end=end, ssh=await machine.ssh(), agent=machine.connections.agent)

    def _end(self, link: str, vm: str) -> LinkEnd:
        """Return what a VM that is ready has said of its end of a link."""
        beat = self.machines[vm].last_beat
        return beat.end(link) if self.is_ready(vm) and beat is not None else LinkEnd()

    async def _uses(self, link: str) -> dict[str, LinkEnd]:
        """Return, by VM, the ends of a link that its users have now made a port of something, or moved away."""
        used = {}
        for spec in self.topology.link(link).endpoints:
            with contextlib.suppress(VpctlError, TimeoutError):  # what was heard before has to do
                async with asyncio.timeout(BEAT_SECONDS):
                    await last_beat(self.machines[spec.vm])
            end = self._end(link, spec.vm)
            if end.master or end.state is EndState.MOVED:
                used[spec.vm] = end
        return used

    async def why_not_provable(self, link: str) -> str | None:
        """Return why packets of ours may be missing at a link with which nothing is wrong, None if they may not.

        A user has made its interface a port of something, or has moved it to another network namespace.
        """
        return _told(await self._uses(link)) or None

    async def probe(self, link: str, *, count: int, seconds: float = traffic.PROBE_SECONDS) -> list[dict[str, Any]]:
        """Probe a link both ways; entries as in `up`'s `checks`, with a `reason` where one is not ok, maybe a `hint`.

        `seconds` is how long the first packet may take, counted from when it is this link's turn. Where a user has
        put an interface to another use the entries are ok, and say `not_provable` with that use unless packets came
        all the same.
        """
        spec = self.topology.link(link)
        try:
            async with self.turn(link):
                first, second = await self.guests(link)
                used = await self._uses(link)
                moved = any(end.state is EndState.MOVED for end in used.values())
                checks = []
                if not moved:
                    checks = await traffic.probe_both_ways(spec, first, second, count=count, seconds=seconds)
            if used and not (checks and all(check["ok"] for check in checks)):
                ways = ((first.end.vm, second.end.vm), (second.end.vm, first.end.vm))
                return [traffic.not_provable(link, *way, _told(used)) for way in ways]
            for entry, guest in zip(checks, (first, second), strict=True):
                if entry.get("reason") == NO_INTERFACE and (why := await why_no_interface(guest)) is not None:
                    entry["reason"] += f" in `{entry['from']}`: {why}"
        except Exception as raised:
            error = self.foreseen(raised, name="probe", link=link)
            one, other = (end.vm for end in spec.endpoints)
            return [traffic.unanswered(link, *way, error.message) for way in ((one, other), (other, one))]
        return [self._explained(entry) for entry in checks]

    @contextlib.asynccontextmanager
    async def turn(self, link: str) -> AsyncIterator[None]:
        """Wait until both VMs of a link may be asked for packets, `MOST_PROBES` at once; not to be nested."""
        async with contextlib.AsyncExitStack() as stack:
            for vm in sorted(end.vm for end in self.topology.link(link).endpoints):  # in one order everywhere
                await stack.enter_async_context(self._probing[vm])
            yield

    async def probe_from(self, link: str, vm: str, *, count: int, seconds: float) -> dict[str, Any]:
        """Probe a link from one guest; its interface, and the other guest, may be on their way. See `probe`."""
        spec = self.topology.link(link)
        peer = spec.peer_of(vm)
        try:
            source = await self._guest(spec.end_of(vm))
            entry = await traffic.probe(link, source, peer, count=count, seconds=seconds)
        except Exception as raised:
            error = self.foreseen(raised, name="probe", vm=vm, link=link)
            return traffic.unanswered(link, vm, peer.vm, error.message)
        return self._explained(entry)

    async def filters(self, link: str) -> frozenset[str]:
        """Return what users have put in the way of a link's packets, at either end; see `network.filters`."""
        try:
            first, second = await self.guests(link)
        except VpctlError:
            return frozenset()
        return await traffic.filters(link, first) | await traffic.filters(link, second)

    def _explained(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Add to a probe that failed what may lie behind it."""
        network_of_host = host_network(self.topology.link(entry["link"]), self.rundir)
        if entry["ok"] or network_of_host is None or not firewall_sees_bridges():
            return entry
        return {**entry, **suspected(entry["reason"])}

    async def probe_all(self, *, count: int, seconds: float) -> list[dict[str, Any]]:
        """Probe every link, each as soon as it is its turn; see `probe`.

        Of many, those that fail are probed once more: on a busy host some come late.
        """
        entries = await self._probe_each(list(self.links), count=count, seconds=seconds)
        failed = list(dict.fromkeys(entry["link"] for entry in entries if not entry["ok"]))
        if len(self.links) <= MOST_PROBES or not failed:
            return entries
        again = await self._probe_each(failed, count=count, seconds=seconds)
        return [entry for entry in entries if entry["link"] not in failed] + again

    async def _probe_each(self, links: list[str], *, count: int, seconds: float) -> list[dict[str, Any]]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.probe(name, count=count, seconds=seconds), name=f"probe-{name}")
                for name in links
            ]
        return [entry for task in tasks for entry in task.result()]

    async def check(self, links: list[str]) -> dict[str, Any]:
        """Run the full check on some links, one after the other; `check` of the contract.

        One at a time on each link, such as a user's and that of a recovery: their receivers have the same ports. One
        of a link that goes down meanwhile ends there, with a `reason`, and not when its packets are given up on.
        """
        results = []
        for name in links:
            async with self.links[name].checking:
                entry = await self._check(name)
            results.append(entry)
            attributes = {"ok": entry["ok"], "tests": len(entry["tests"])}
            more = {key: entry[key] for key in ("reason", "not_checked") if key in entry}
            self.journal.write("check", link=name, attributes=attributes | more)
        return {"schema_version": 1, "ok": all(entry["ok"] for entry in results), "links": results}

    async def _check(self, link_name: str) -> dict[str, Any]:
        link = self.links[link_name]

        async def went_down() -> LinkDownError:
            await link.until_down()
            return LinkDownError("the link went down while it was checked")

        async def stands_still() -> LinkDownError:
            paused = " and ".join(f"`{vm}`" for vm in await self.until_paused(link_name))
            return LinkDownError(f"{paused} is paused: nothing can be sent; `vpctl qmp VM cont` lets it run")

        try:
            if self.paused(link_name):
                raise await stands_still()
            work = self.transmit(link_name)
            if link.state is LinkState.UP:  # else one wants to know what comes through all the same
                work = wait.first(work, unless=went_down())
            return await wait.first(work, unless=stands_still())
        except LinkDownError as error:
            return {"link": link_name, "ok": False, "tests": [], "reason": error.message}

    async def transmit(self, link: str) -> dict[str, Any]:
        """Send all that a check sends over a link, whatever is known of it; an entry of `check`'s `links`.

        An interface that a user has made a port of something sends and receives frames only; where these do not come
        either, or it is in another network namespace, the entry has no tests. It says so as `not_checked`.
        """
        first, second = await self.guests(link)
        spec = self.topology.link(link)
        if not (used := await self._uses(link)):
            return await traffic.check_link(spec, first, second)
        if not any(end.state is EndState.MOVED for end in used.values()):
            entry = await traffic.check_link(spec, first, second, frames_only=True)
            if entry["ok"]:
                return {**entry, "not_checked": f"UDP and TCP: {_told(used)}"}
        return {"link": link, "ok": True, "tests": [], "not_checked": _told(used)}

    def require_vm(self, vm: str) -> None:
        """Raise NotFoundError, with the names there are, unless there is such a VM."""
        if vm not in self.machines:
            known = ", ".join(f"`{name}`" for name in self.machines)
            raise NotFoundError(f"no VM named `{vm}` in `{self.topology.name}`", hint=f"VMs are {known}")

    def require_link(self, link: str) -> None:
        """Raise NotFoundError, with the names there are, unless there is such a link."""
        if link not in self.links:
            known = ", ".join(f"`{name}`" for name in self.links) or "none"
            raise NotFoundError(f"no link named `{link}` in `{self.topology.name}`", hint=f"links are {known}")

    def journalled(self, entry: Mapping[str, Any]) -> None:
        """Pass a QMP event on to the VM that it came from; what that raises is no matter of its QMP connection."""
        if entry["type"] == "qmp.event":
            vm = entry["vm"]
            self.guarded(lambda: self.machines[vm].take_event(entry["attributes"]), name="qmp-event", vm=vm)


def _told(ends: Mapping[str, LinkEnd]) -> str:
    """Return in words what users have made of their ends of a link."""
    return "; ".join(f"{vm}: {end.use}" for vm, end in ends.items())
