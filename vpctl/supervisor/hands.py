"""Recovery's hands: each step of a plan done to real guests, and written down before it is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from vpctl.broker.client import BrokerClient
from vpctl.errors import RecoveryError, VpctlError
from vpctl.guest import network
from vpctl.links.base import Sharing
from vpctl.plan.run import host_network, plug_steps, plugged_device, sharing
from vpctl.process import open_files
from vpctl.qmp import hotplug
from vpctl.recovery.plan import Repair, plan_repair
from vpctl.recovery.state import LinkState, VmState
from vpctl.supervisor.host_network import create
from vpctl.supervisor.machine import Machine
from vpctl.supervisor.parking import find_interrupts, leaves_handlers, lowest_free, park
from vpctl.supervisor.sharing import free, serve, switch_off, switch_on
from vpctl.supervisor.world import World


class Hands:
    """Implements `recovery.act.Hands`; see there for what each method guarantees."""

    def __init__(self, world: World, broker: Callable[[], BrokerClient], watch: Callable[[Machine], None]) -> None:
        self._world = world
        self._broker = broker
        self._watch = watch
        # One at a time in each VM. Whatever is plugged or unplugged makes a guest look at every slot, and one whose
        # device is still on its way out it then ejects a second time: the next device there, if that is quick.
        self._hotplug = {vm: asyncio.Lock() for vm in world.machines}
        self._off: set[str] = set()
        """The generations of shared memory that all guests were told to let go of."""

    async def fence(self, vm: str) -> None:
        await self._world.machines[vm].fence(self._broker())
        self._world.forget(vm)

    async def boot(self, vm: str) -> float:
        machine = self._world.machines[vm]
        try:
            ms = await machine.boot(self._broker())
        except VpctlError as error:
            machine.set_state(VmState.CRASHED, reason=error.message)  # whoever waits in `until_ready` is told
            raise
        self._watch(machine)
        return ms

    async def until_ready(self, vm: str) -> None:
        machine = self._world.machines[vm]
        while machine.state is not VmState.READY:
            if machine.state in (VmState.FAILED, VmState.STOPPED, VmState.CRASHED):
                why = f": {machine.reason}" if machine.reason is not None else ""
                raise RecoveryError(f"`{vm}` is {machine.state}{why}", hint=f"vpctl recover {vm}")
            await machine.changed.wait()

    def is_alive(self, vm: str) -> bool:
        return self._world.is_alive(vm)

    def link_lock(self, link: str) -> asyncio.Lock:
        return self._world.links[link].lock

    def link_broken(self, link: str) -> None:
        self._world.links[link].set_state(LinkState.FAILED)

    def repair_of(self, link: str) -> Repair | None:
        spec, known = self._world.topology.link(link), self._world.links[link]
        alive = [end.vm for end in spec.endpoints if self.is_alive(end.vm)]
        whole = all(known.plugged.get(end.vm) == [known.generation] for end in spec.endpoints)
        if known.state is LinkState.UP and whole and len(alive) == len(spec.endpoints):
            return None
        repair = plan_repair(spec, known.view(), alive)
        known.begin(repair.generation)
        return repair

    async def prepare_host(self, link: str) -> None:
        network = host_network(self._world.topology.link(link), self._world.rundir)
        if network is not None:
            await create(network, self._world.rundir.interface_commands(link))

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        world = self._world
        spec, machine = world.topology.link(link), world.machines[vm]
        device = plugged_device(world.run, spec, generation, vm=vm, rundir=world.rundir)
        shared = sharing(world.run, spec, generation, rundir=world.rundir)
        if shared is not None:
            await self._switch_off(link, generation, shared)
        session = await machine.qmp()
        async with self._hotplug[vm]:
            before = files_of(machine)
            await hotplug.unplug(session, device.ids(), on_stuck=spec.recovery.on_stuck)
            if shared is not None:
                # Where nobody knows which were the interrupts, all that the device had counts as such.
                heard = machine.interrupts.get(shared.name) or before - files_of(machine)
                await self._park(machine, shared.name, heard)
        if shared is not None and (served := shared.end_of(vm)) is not None:
            await free(self._broker(), served[1])
        world.unplugged(vm, link, generation)

    async def plug(self, vm: str, repair: Repair) -> None:
        world = self._world
        spec, machine, known = world.topology.link(repair.link), world.machines[vm], world.links[repair.link]
        steps = plug_steps(world.run, spec, repair.generation, first=repair.first, rundir=world.rundir)
        (device,) = (step.device for step in steps if step.vm == vm)
        shared = sharing(world.run, spec, repair.generation, rundir=world.rundir)
        session = await machine.qmp()
        if shared is not None:
            await self._share(vm, repair, shared)
        known.plugging(vm, repair.generation)
        async with self._hotplug[vm]:
            before = files_of(machine)
            try:
                await hotplug.plug(session, device)
            except hotplug.StepError as error:
                if shared is not None and error.step == "device_add" and error.reply is None:
                    # It was there after all, and was taken out again. Beside both ends' interrupts it had the memory,
                    # the connection to the broker, and the host's own interrupt.
                    heard = lowest_free(before, 2 * device.device["vectors"] + 3)
                    with contextlib.suppress(VpctlError):
                        await self._park(machine, shared.name, heard)
                raise
            if shared is not None:
                await self._listen(machine, shared)

    # Section: memory that guests share

    async def _share(self, vm: str, repair: Repair, shared: Sharing) -> None:
        """Have the broker do its part before a plug; see `Sharing`."""
        if vm == repair.first:
            plugged = self._world.links[repair.link].plugged
            if holders := [other for other, generations in plugged.items() if generations]:
                # A QEMU that hangs or is paused still has the memory, and may wake up.
                message = f"`{holders[0]}` still has a device of link `{repair.link}`"
                raise RecoveryError(message, hint=f"vpctl recover {holders[0]}")
            await serve(self._broker(), shared)
        if (end := shared.end_of(vm)) is not None:
            await switch_on(self._broker(), end[1])

    async def _switch_off(self, link: str, generation: int, shared: Sharing) -> None:
        """Have all ends let go before the first device of a generation goes, so that none of them rings another's."""
        if shared.name in self._off:
            return
        known = self._world.links[link]
        vms = [vm for vm, generations in known.plugged.items() if generation in generations and self.is_alive(vm)]
        silent = await switch_off(self._broker(), shared, vms)
        self._world.journal.write("link.off", link=link, attributes={"device": shared.name, "silent": silent})
        self._off.add(shared.name)

    async def _listen(self, machine: Machine, shared: Sharing) -> None:
        """Learn by which descriptors a QEMU hears a device that was just plugged."""
        if (end := shared.end_of(machine.name)) is None or not leaves_handlers(machine.spec.accelerator):
            return
        if machine.process is not None:
            served = await self._broker().served(shared.name)
            machine.hears(shared.name, await find_interrupts(machine.process.pid, served, end[0]))

    async def _park(self, machine: Machine, device: str, heard: Collection[int]) -> None:
        """Cure a QEMU of the interrupts of a doorbell device that was in it."""
        if machine.process is not None and leaves_handlers(machine.spec.accelerator):
            session = await machine.qmp()
            machine.parked(device, await park(session, machine.process.pid, heard, name=device))

    async def prove(self, link: str) -> None:
        for end in self._world.topology.link(link).endpoints:
            await self.until_ready(end.vm)  # one may reboot just now
        network.require(await self._world.probe(link, count=1))
        self._world.links[link].set_state(LinkState.UP)


def files_of(machine: Machine) -> frozenset[int]:
    """Return the numbers of the descriptors that a VM's QEMU has."""
    return open_files(machine.process.pid) if machine.process is not None else frozenset()
