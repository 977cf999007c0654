"""The supervisor's bond with its broker: when the broker dies another is started, which adopts the QEMUs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from vpctl import wait
from vpctl.broker.client import BrokerClient, BrokerEvent, BrokerGoneError, connect, start_broker
from vpctl.broker.protocol import BackendEvent, BrokerFailure, Exit
from vpctl.errors import VpctlError
from vpctl.process_record import process_name
from vpctl.recovery.faults import Fault
from vpctl.supervisor.state import TopologyState

RESTART_PAUSE = 0.2
"""Seconds between attempts at a new broker."""


class TopologyOverError(Exception):
    """The topology is being stopped: there is nothing left to supervise."""


class Listener(Protocol):
    """Who acts on what becomes of the broker and of what it serves."""

    def look(self, link: str) -> None:
        """Something was told of a link."""

    def broker_returned(self, died: float, adopted: Collection[str]) -> None:
        """A broker died, at `died` (CLOCK_MONOTONIC), and its successor has adopted these; reports the repair."""


class BrokerConnection:
    """Holds the connection; `client` while there is one."""

    listener: Listener
    """Set before `keep`: whoever listens uses the broker, so each needs the other."""

    def __init__(self, state: TopologyState, take_exit: Callable[[Exit], None]) -> None:
        self._state = state
        self._take_exit = take_exit
        self._client: BrokerClient | None = None
        self.connected = asyncio.Event()

    def client(self) -> BrokerClient:
        """Return the connection to the broker; BrokerGoneError while there is none."""
        if self._client is None:
            raise BrokerGoneError("the broker is gone")
        return self._client

    async def keep(self) -> None:
        """Stay connected for good; raises TopologyOverError once everything is being stopped."""
        died: float | None = None
        while True:
            try:
                async with connect(self._state.rundir) as client:
                    self._client = client
                    if died is not None:
                        await self._repaired(client, died)
                        died = None
                    self.connected.set()
                    await self._take_news(client)
            except BrokerGoneError:
                pass
            except Exception as raised:
                self._state.foreseen(raised, name="broker")
                await wait.pause(RESTART_PAUSE)
            self._client = None
            self.connected.clear()
            if self._state.rundir.stopping.exists() or not self._state.rundir.run.exists():
                raise TopologyOverError
            if died is None:
                died = time.monotonic()
                self._state.journal.write("fault", attributes={"fault": str(Fault.BROKER_EXIT)})
            await self._start_another()

    async def _start_another(self) -> None:
        try:
            await start_broker(self._state.rundir)
        except VpctlError as error:
            # Somebody else may have started one, or is stopping everything; the next round will tell.
            step = {"name": "start-broker", "target": "broker", "ok": False, "error": error.message}
            self._state.journal.write("recovery.step", attributes=step)
            await wait.pause(RESTART_PAUSE)

    async def _repaired(self, client: BrokerClient, died: float) -> None:
        """Find the QEMUs that ended while there was no broker to see it, and have what it served repaired."""
        running = {child.name: child.process for child in await client.list()}
        for name, machine in self._state.machines.items():
            if machine.process is not None and running.get(process_name(name)) != machine.process:
                ended = Exit(
                    name=process_name(name),
                    generation=machine.generation,
                    pid=machine.process.pid,
                    status=None,
                    monotonic=died,
                )
                self._state.guarded(partial(self._take_exit, ended), name="exit", vm=name)
        self.listener.broker_returned(died, running)

    async def _take_news(self, client: BrokerClient) -> None:
        """Take in the ends of processes, and who joins or leaves a link, until the broker is gone."""
        gone = asyncio.ensure_future(client.lost.wait())
        try:
            while True:
                event = asyncio.ensure_future(client.events.get())
                try:
                    await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if not event.done():
                        return
                    self._state.guarded(partial(self._take, event.result()), name="broker-event")
                finally:
                    event.cancel()
        finally:
            gone.cancel()

    def _take(self, event: BrokerEvent) -> None:
        if isinstance(event, Exit):
            self._take_exit(event)
            return
        if isinstance(event, BrokerFailure):
            reason = f"{event.work}: {event.message}"
            self._state.journal.write("warning", attributes={"warning": "broker-failure", "reason": reason})
            return
        followed = isinstance(event, BackendEvent)
        if isinstance(event, BackendEvent):
            attributes = {"device": event.name, "session": event.session, **event.details}
        else:
            attributes = {"device": event.name, "end": event.end, "id": event.id}
        link = event.name.rpartition(".")[0]
        self._state.journal.write(f"link.{event.what}", link=link, attributes=attributes)
        if followed:  # a device that leaves does so because it, or its QEMU, is on its way out
            self.listener.look(link)
