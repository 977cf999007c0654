"""Guests under test: real ssh to a shell that has a few programs of the test's own, and an interface that counts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fakes.guest import Process, Program, guest_running, shell
from tests.made import made_link
from vpctl.bench.counters import COUNTERS, GuestEnd
from vpctl.bench.guest import Guest, Raw
from vpctl.bench.workload import Pair
from vpctl.guest.ssh import Address
from vpctl.process import ProcessId, identify
from vpctl.rundir import RunDir

RECORDED = Path(__file__).parents[1] / "data/bench"
NOWHERE = Address(vm="vm1", port=1, user="root", identity=Path("/nowhere"), host_key=None)


def recorded(name: str) -> str:
    """Return what a program once wrote in a real guest."""
    return (RECORDED / name).read_text()


@dataclass(slots=True)
class Inside:
    """A guest as its shell sees it."""

    vm: str
    programs: dict[str, Program] = field(default_factory=dict)
    """A word of a script → what carries the script out."""
    interface: int | None = 2
    """Its interface's number; None: there is none."""
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 1000))
    scripts: list[str] = field(default_factory=list)
    """What it was told, questions for the counters left out."""

    def count(self, direction: str, packets: int, octets: int) -> None:
        """Have packets cross the interface: `rx` or `tx`."""
        self.counters[f"{direction}_packets"] += packets
        self.counters[f"{direction}_bytes"] += octets

    async def run(self, script: str, process: Process) -> int:
        """Carry out a script."""
        if "/ifindex" in script or "ifindex " in script:
            if self.interface is not None:
                process.stdout.write("".join(f"{value}\n" for value in (self.interface, *self.counters.values())))
            return 0
        self.scripts.append(script)
        for word, program in self.programs.items():
            if word in script:
                return await program(script, process)
        process.stderr.write(f"sh: no program for: {script}\n")
        return 127


def says(text: str, *, status: int = 0, stderr: str = "") -> Program:
    """Return a program that says something and ends."""

    async def program(script: str, process: Process) -> int:
        process.stdout.write(text)
        process.stderr.write(stderr)
        return status

    return program


def serves(text: str, until: asyncio.Event | None = None, *, after: str = "") -> Program:
    """Return a program that says something and then serves, to the end of time or until an event."""

    async def program(script: str, process: Process) -> int:
        process.stdout.write(text)
        await (until or asyncio.Event()).wait()
        process.stdout.write(after)
        return 0

    return program


@asynccontextmanager
async def logged_in(
    rundir: RunDir, inside: Inside, *, raw: Raw | None = None, process: ProcessId | None = None
) -> AsyncIterator[Guest]:
    """Be logged in to a guest for as long as the block lasts; `process` stands for its QEMU, else this one does."""
    process = process or identify(os.getpid())
    assert process is not None
    async with guest_running(rundir, shell(inside.run)) as address:
        guest = Guest(
            inside.vm,
            address=replace(address, vm=inside.vm),
            process=process,
            agent="/a",
            raw=raw or Raw(),
        )
        await guest.connect()
        try:
            yield guest
        finally:
            await guest.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Both guests of a link: as they are inside, and as they are measured."""

    vm1: Inside
    vm2: Inside
    pair: Pair
    raw: Raw

    def cross(self, *, packets: int, octets: int = 0, back: bool = False) -> None:
        """Have packets go over the link, from vm1 to vm2 or back."""
        source, target = (self.vm2, self.vm1) if back else (self.vm1, self.vm2)
        source.count("tx", packets, octets)
        target.count("rx", packets, octets)


@asynccontextmanager
async def world(rundir: RunDir) -> AsyncIterator[World]:
    """Be logged in to both guests of a link, lan0, for as long as the block lasts."""
    raw, one, two = Raw(), Inside("vm1"), Inside("vm2")
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(logged_in(rundir, inside, raw=raw)) for inside in (one, two)]
        yield World(vm1=one, vm2=two, pair=made_pair(first, second), raw=raw)


def made_pair(first: Guest, second: Guest, name: str = "lan0") -> Pair:
    """Return a link between two guests under test."""
    link = made_link(name, first.vm, second.vm)
    ends = (
        GuestEnd(guest=guest, end=end, link=name) for guest, end in zip((first, second), link.endpoints, strict=True)
    )
    return Pair(link=link, first=next(ends), second=next(ends))


def made_guest(vm: str, process: ProcessId) -> Guest:
    """Return a guest that nobody is logged in to."""
    return Guest(vm, address=replace(NOWHERE, vm=vm), process=process, agent="/a", raw=Raw())
