"""The supervisor of one topology: takes over what runs, brings it up, repairs it, answers commands.

Everything it knows is written down at each change, so that a supervisor which was killed is followed by one that
takes over: running VMs are adopted, half-done boots go on, half-done repairs are begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vpctl.broker.protocol import Exit
from vpctl.credentials import may_ask
from vpctl.errors import HostError, VpctlError
from vpctl.image.store import hold, load_image
from vpctl.links.devices import device_generations
from vpctl.plan.run import Run
from vpctl.process_record import Child, process_name
from vpctl.qmp.hotplug import devices
from vpctl.recovery.state import VmState
from vpctl.rundir import RunDir, read_json
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.broker_connection import BrokerConnection, TopologyOverError
from vpctl.supervisor.commands import Commands
from vpctl.supervisor.control import ControlServer
from vpctl.supervisor.fault_response import FaultResponse
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.inject import FaultInjector
from vpctl.supervisor.jobs import Jobs
from vpctl.supervisor.record import Record, afresh, read_record
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.watch.vrings import VringWatch
from vpctl.tasks import FOR_EVER


class Supervisor:
    """Puts the parts together; `run` lasts until the topology is over or SIGTERM comes."""

    def __init__(self, run: Run, rundir: RunDir) -> None:
        self._state = TopologyState(run, rundir)
        self._broker_connection = BrokerConnection(self._state, self._take_exit)

    async def run(self) -> None:
        """Take over what runs, bring up what does not, and serve."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            async with asyncio.TaskGroup() as group:
                await self._serve(group)
        except* TopologyOverError:
            pass
        finally:
            for machine in self._state.machines.values():
                with contextlib.suppress(Exception):
                    await machine.close()

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        state = self._state
        control = ControlServer(
            state.rundir.control_socket, state.foreseen, may_ask=lambda connection: may_ask(connection, state.rundir)
        )
        jobs = Jobs(group, control.event, state.foreseen)
        recoveries = Recoveries(self._state, jobs)
        fault_response = FaultResponse(self._state, group, recoveries)
        hands = Hands(self._state, self._broker_connection.client, fault_response.watch)
        recoveries.hands = hands
        vring_watch = self._broker_connection.listener = VringWatch(
            self._state, hands, recoveries, group, fault_response.take_link_fault
        )
        bring_up = BringUp(self._state, self._broker_connection.client, recoveries, fault_response, group)
        commands = Commands(
            self._state, jobs, recoveries, bring_up, FaultInjector(self._state, fault_response, recoveries)
        )
        self._state.journal.listeners += [self._state.journalled, _tell(control)]
        state.guarded(lambda: hold_images(state), name="hold-images")
        group.create_task(self._broker_connection.keep(), name="broker")
        group.create_task(self._state.keep_logs_limited(), name="logs")
        await self._broker_connection.connected.wait()
        known = await self._take_over(fault_response)
        # The socket opens when there is something to tell, so that no client is told of a state that this
        # supervisor has not looked at yet.
        serve = state.contained(lambda: control.run(commands.execute), name="control", again=FOR_EVER)
        group.create_task(serve, name="control")
        jobs.start("up", lambda: bring_up.run(explicit=not known))
        vring_watch.look_at_all()

    def _take_exit(self, exit_: Exit) -> None:
        kind, _, vm = exit_.name.partition("/")
        if kind == "vm" and vm in self._state.machines:
            self._state.machines[vm].take_exit(exit_)

    # Section: taking over

    async def _take_over(self, fault_response: FaultResponse) -> bool:
        """Adopt what a supervisor before this one left; False at a first start."""
        state = self._state
        children = {child.name: child for child in await self._broker_connection.client().list()}
        record = read_record(
            read_json(state.rundir.status), run_id=state.run.run_id, vms=state.machines, links=state.links
        )
        if record is None and any(process_name(name) in children for name in state.machines):
            record = Record(unread=[*state.machines, *state.links])  # guests that run are never begun anew for that
        if record is not None:
            await self._restore(record, children)
            attributes = {"command": "take-over", "adopted": sorted(children)}
            state.journal.write("command", attributes=attributes)
        state.loaded = True
        state.save()
        # Only now: a recovery that began before everything is known would meet with the bring-up.
        for machine in state.machines.values():
            if machine.state is VmState.READY:
                fault_response.watch(machine)
        return record is not None

    async def _restore(self, record: Record, children: Mapping[str, Child]) -> None:
        """Take over what was written down; what was not is asked of broker and QEMUs."""
        state = self._state
        state.up = record.up
        for name, entry in record.links.items():
            state.links[name].restore(entry)
        for timing in record.timings:
            state.machines[timing["vm"]].timings.append(timing)
        for name in state.machines:
            child = children.get(process_name(name))
            entry = record.vms.get(name) or afresh(name, child.generation if child is not None else 0)
            await state.contained(partial(self._adopt, entry, child), name="take-over", vm=name)
        for name in state.links:
            if name not in record.links:
                await state.contained(partial(self._look_for_devices, name), name="take-over", link=name)
        if record.unread:
            hint = f"{state.rundir.status} is damaged or another version's; what it does not tell is looked for"
            state.journal.write("warning", attributes={"warning": "record", "unread": record.unread, "hint": hint})

    async def _look_for_devices(self, link_name: str) -> None:
        """Ask the QEMUs that run for a link's devices, of whatever generation."""
        link = self._state.links[link_name]
        for end in self._state.topology.link(link_name).endpoints:
            machine = self._state.machines[end.vm]
            if machine.process is None:
                continue
            with contextlib.suppress(VpctlError):  # a QEMU that does not answer is recovered, its devices with it
                found = device_generations(link_name, await devices(await machine.qmp()))
                link.generation = max(link.generation, *found, 0)
                for generation in found:
                    link.plugging(end.vm, generation)

    async def _adopt(self, entry: Mapping[str, Any], child: Child | None) -> None:
        machine = self._state.machines[entry["name"]]
        state = VmState(entry["state"])
        machine.restore(entry)
        if child is not None and state is not VmState.STOPPED:
            await machine.adopt(child, ready=state is VmState.READY)
        elif state is VmState.READY:
            # It ended while nobody looked: the broker wrote down how.
            unknown = Exit(
                name=machine.name, generation=machine.generation, pid=0, status=None, monotonic=time.monotonic()
            )
            machine.lost_unseen(machine.recorded_exit() or unknown)


def hold_images(state: TopologyState) -> None:
    """Mark the built images that the VMs boot as in use, for the life of this process."""
    built = [spec.boot.kernel for spec in state.run.machines.values() if not spec.boot.disk_overlay]
    for directory in {Path(kernel).parent for kernel in built}:
        image = load_image(directory)
        try:
            if image is not None:
                hold(image)
        except HostError as error:  # guests that run have its files open; one that crashes cannot come back
            state.journal.write("command", attributes={"command": "hold-image", "error": error.message})


def _tell(control: ControlServer) -> Any:
    """Return a journal listener that passes entries on to clients; QMP commands, of which there are many, not."""

    def tell(entry: Mapping[str, Any]) -> None:
        if entry["type"] != "qmp.command":
            control.event("JOURNAL", dict(entry))

    return tell
