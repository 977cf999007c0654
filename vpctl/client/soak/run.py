"""`vpctl soak` from outside: faults under traffic on a topology that runs, each waited for, verified and counted.

It is a client, since it kills the supervisor and the broker too: it reads the journal and what they wrote down.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpctl import wait
from vpctl.client.connection import connect, try_status
from vpctl.client.soak.plan import (
    Census,
    Injection,
    PlannedFault,
    false_alarms,
    faults_of_round,
    leaks,
    missed,
    percentiles,
)
from vpctl.client.soak.report import Outage, Round, SoakReport
from vpctl.errors import NotFoundError, ReadyTimeoutError, VerificationError, VpctlError, cause_of
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.reports import Report, decode
from vpctl.journal import Reader
from vpctl.links.devices import device_id
from vpctl.plan.run import Run
from vpctl.process import ProcessId, find_by_argument, identify, memory_mib, open_files
from vpctl.process_record import SUPERVISOR, known_children
from vpctl.qmp.session import connect as connect_qmp
from vpctl.rundir import RunDir, read_json

ROUND_SECONDS = 300.0
"""For everything to be well again after a fault."""

RATE = 100
"""Datagrams per second of each stream."""

LISTEN_SECONDS = 0.5
TRAFFIC_SECONDS = 60.0
"""For a stream to come: its sender may just have been started, in a guest on a busy host."""


@dataclass(kw_only=True, slots=True)
class SoakTally:
    """What has come of the rounds so far."""

    seed: int
    rounds: list[Round] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)
    recoveries: int = 0
    unrecovered: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.unrecovered or self.alarms or self.leaks)

    def as_json(self) -> dict[str, Any]:
        """Return the report."""
        return SoakReport(
            ok=self.ok,
            seed=self.seed,
            recoveries=self.recoveries,
            unrecovered=self.unrecovered,
            false_alarms=self.alarms,
            leaks=self.leaks,
            outage_ms=Outage(**percentiles(self.outages)),
            rounds=self.rounds,
        ).as_json()


class Soak:
    """One soak of one topology."""

    def __init__(self, run: Run, rundir: RunDir, say: Callable[[str], None]) -> None:
        self._run = run
        self._rundir = rundir
        self._say = say
        self._journal = Reader(rundir.journal)
        self._entries: list[dict[str, Any]] = []
        """What the journal has of the present round."""

    async def run(self, *, seed: int, first: int, rounds: int) -> SoakTally:
        """Run rounds `first` to `first + rounds - 1` of a seed; ends early where something does not come up again."""
        tally = SoakTally(seed=seed)
        self._journal = Reader.at_end(self._rundir.journal)
        before = await self._census(await self._until_well())
        await self._see_traffic()
        for number in range(first, first + rounds):
            faults = faults_of_round(self._run.topology, seed=seed, number=number)
            began = self._begin_round()
            name = f"round {number}: {', then '.join(str(planned) for planned in faults)}"
            self._say(name)
            try:
                await self._round(faults)
            except (VpctlError, ExceptionGroup) as error:
                cause = cause_of(error)
                if not isinstance(cause, VpctlError):
                    raise
                tally.unrecovered.append(f"{name}: {cause.message}")
                self._take(tally, number, faults, began, ok=False)
                return tally
            self._take(tally, number, faults, began, ok=True)
        after = await self._census(await self._until_well())
        tally.leaks = leaks(before, after, rounds)
        return tally

    async def _round(self, faults: Sequence[PlannedFault]) -> None:
        async with asyncio.TaskGroup() as group:
            for index, planned in enumerate(faults):
                await wait.pause(planned.delay)
                group.create_task(self._inject(planned, first=index == 0), name=str(planned))
        await self._until_well(faults)
        await self._see_traffic()

    def _take(self, tally: SoakTally, number: int, faults: Sequence[PlannedFault], began: float, *, ok: bool) -> None:
        entries = self._entries_of_round()
        ends = [entry["attributes"] for entry in entries if entry["type"] == "recovery.end"]
        outages = [
            link["outage_ms"]
            for end in ends
            for link in end.get("links", ())
            if isinstance(link, dict) and link["outage_ms"] is not None
        ]
        alarms = false_alarms(faults, entries) + missed(faults, entries)
        tally.recoveries += sum(bool(end["ok"]) for end in ends)
        tally.outages += outages
        tally.alarms += [f"round {number}: {alarm}" for alarm in alarms]
        tally.rounds.append(
            Round(
                round=number,
                strikes=[str(planned) for planned in faults],
                ok=ok and not alarms,
                seconds=round(time.monotonic() - began, 1),
                outages_ms=outages,
            )
        )

    # Section: faults

    async def _inject(self, planned: PlannedFault, *, first: bool) -> None:
        match planned.injection:
            case Injection.SUPERVISOR:
                _kill(self._own(SUPERVISOR))
            case Injection.BROKER:
                with contextlib.suppress(OSError, ValueError):
                    _kill(identify(int(self._rundir.broker_pid.read_text(encoding="utf-8"))))
            case Injection.DEVICE:
                await self._remove_device(planned)
            case _:
                try:
                    async with connect(self._rundir) as supervisor:
                        await supervisor.job("crash", vm=planned.vm, how=str(planned.injection))
                except NotFoundError:
                    if first:  # a later one may find its victim dead
                        raise

    async def _remove_device(self, planned: PlannedFault) -> None:
        assert planned.vm is not None
        assert planned.link is not None
        generations = self._recorded("links", planned.link)["plugged"].get(planned.vm)
        if not generations:
            raise NotFoundError(f"`{planned.vm}` has no device of `{planned.link}`")
        device = device_id(planned.link, max(generations))
        path = self._rundir.people_qmp_socket(planned.vm)
        async with connect_qmp(path, vm=planned.vm, timeout=10.0) as session:
            await session.execute("device_del", {"id": device})

    def _own(self, name: str) -> ProcessId | None:
        return next((child.process for child in known_children(self._rundir) if child.name == name), None)

    # Section: looking

    def _begin_round(self) -> float:
        """Forget the entries of earlier rounds; return the time."""
        self._entries_of_round()
        self._entries = []
        return time.monotonic()

    def _entries_of_round(self) -> list[dict[str, Any]]:
        self._entries += self._journal.new()
        return self._entries

    def _recorded(self, what: str, name: str) -> Mapping[str, Any]:
        """Return what the supervisor has written down of one of the `vms` or `links`."""
        record: Any = read_json(self._rundir.status)
        entries: list[dict[str, Any]] = record.get(what, []) if isinstance(record, dict) else []
        found = next((entry for entry in entries if entry["name"] == name), None)
        if found is None:
            raise NotFoundError(f"`{self._rundir.name}` has no record of `{name}`")
        return found

    async def _until_well(self, faults: Sequence[PlannedFault] = ()) -> dict[str, Any]:
        """Wait until everything is up and what was hit has been seen; return the status."""
        seen = "nothing"

        async def well() -> dict[str, Any] | None:
            nonlocal seen
            if faults and missed(faults, entries := self._entries_of_round()):
                seen = f"{len(entries)} journal entries, no fault"
                return None
            status = await try_status(self._rundir)
            if status is None:
                seen = "no supervisor"
                return None
            states = [(part["name"], part["state"]) for part in [*status["vms"], *status["links"]]]
            ill = [f"{name} is {state}" for name, state in states if state not in ("ready", "up")]
            busy = [vm["name"] for vm in status["vms"] if vm["incident"] is not None]
            seen = ", ".join(ill + [f"{vm} is in recovery" for vm in busy])
            if any(state == "failed" for _, state in states) and not busy:
                raise VerificationError(f"given up: {seen}")
            return None if ill or busy else status

        return await wait.until(
            well, timeout=ROUND_SECONDS, what="everything to be well", every=0.3, last_seen=lambda: seen
        )

    async def _see_traffic(self) -> None:
        """See that streams run over every link, both ways, and that what comes is whole."""
        async with asyncio.TaskGroup() as group:
            for vm in self._run.topology.vms:
                group.create_task(self._send(vm.name), name=f"send-{vm.name}")
        results = []
        async with asyncio.TaskGroup() as group:
            for vm in self._run.topology.vms:
                results.append(group.create_task(self._receive(vm.name), name=f"receive-{vm.name}"))

    async def _send(self, vm: str) -> None:
        """Start the streams from a VM that do not run: a new guest has none, and a link's new device ends none."""
        lines = []
        for link in self._run.topology.links_of(vm):
            address = str(link.peer_of(vm).address).partition("/")[0]
            command = f"{self._agent(vm)} stream-send {link.name} {address} --rate {RATE}"
            # The pattern is not to find the shell that looks for it, whose command line has all of this.
            runs = f"pgrep -f '^[^ ]*vpctl-agent stream-send {link.name} ' >/dev/null"
            lines.append(f"{runs} || setsid {command} </dev/null >/dev/null 2>&1 &")
        if lines:
            await self._guest(vm, "\n".join(lines))

    async def _receive(self, vm: str) -> None:
        """See that streams come to a VM, whenever their senders get to it, and that they are whole."""
        for link in self._run.topology.links_of(vm):
            ms = LISTEN_SECONDS * 1000
            command = f"{self._agent(vm)} stream-recv {link.name} --duration-ms {ms:.0f}"

            async def something(command: str = command) -> Report | None:
                report = decode(await self._guest(vm, command))
                return report if report.get("received") else None

            what = f"packets at `{vm}` over `{link.name}`"
            report = await wait.until(something, timeout=TRAFFIC_SECONDS, what=what)
            if report.get("corrupt"):
                raise VerificationError(f"`{vm}` got {report['corrupt']} damaged datagrams over `{link.name}`")

    async def stop_traffic(self) -> None:
        """End the streams."""
        for vm in self._run.topology.vms:
            with contextlib.suppress(VpctlError):
                await self._guest(vm.name, "pkill -f '[s]tream-send' || true")

    def _agent(self, vm: str) -> str:
        return str(self._entry(vm)["agent"])

    def _entry(self, vm: str) -> Mapping[str, Any]:
        return self._recorded("vms", vm)

    async def _guest(self, vm: str, script: str) -> str:
        async with guest_ssh.connection(guest_ssh.Address.from_status(self._entry(vm))) as connection:
            done = await guest_ssh.run(connection, ["sh", "-c", script], vm=vm, timeout=30.0)
        if done.status != 0:
            raise ReadyTimeoutError(f"`{vm}`: {done.stderr.strip() or f'exit code {done.status}'}")
        return done.stdout

    async def _census(self, status: Mapping[str, Any]) -> Census:
        """Count once everything has come to rest."""
        pids = {
            "supervisor": int(status["supervisor"]["pid"]),
            "broker": int(self._rundir.broker_pid.read_text(encoding="utf-8")),
        }
        qemus = {
            f"vm/{vm['name']}.{vm['generation']}": len(open_files(vm["pid"])) - vm["parked_fds"]
            for vm in status["vms"]
            if vm["pid"]
        }
        return Census(
            processes=len(find_by_argument(f"{self._rundir.run}/")),
            sockets=sum(1 for path in self._rundir.run.rglob("*") if path.is_socket()),
            files={**{who: len(open_files(pid)) for who, pid in pids.items()}, **qemus},
            memory={who: _private_mib(pid) for who, pid in pids.items()},
        )


def _kill(process: ProcessId | None) -> None:
    if process is not None:
        process.signal(signal.SIGKILL)


def _private_mib(pid: int) -> float:
    """Return the memory of a process that it shares with nobody."""
    with contextlib.suppress(OSError):
        return memory_mib(pid, "Private_Dirty")
    return 0.0
