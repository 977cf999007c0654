"""Recovery's hands: each step of a plan done to real guests, and written down before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext

from vpctl.broker.client import BrokerClient
from vpctl.errors import RecoveryError, VpctlError
from vpctl.host.bridge import create
from vpctl.plan.link import host_network, plug_steps, plugged_device, shared_region, virtio_net_end
from vpctl.qmp import hotplug
from vpctl.recovery.plan import Repair, plan_repair
from vpctl.recovery.state import LinkState, VmState
from vpctl.supervisor.hotplug.backends import Backends, BackendStatus
from vpctl.supervisor.hotplug.hooks import NoHooks, PlugHooks
from vpctl.supervisor.hotplug.ivshmem_doorbell import IvshmemDoorbellHooks
from vpctl.supervisor.hotplug.stale_interrupts import StaleInterrupts, files_of
from vpctl.supervisor.hotplug.stream import stop_blocking, until_listening
from vpctl.supervisor.hotplug.vhost_pci import VhostPciHooks
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.verify import Verification
from vpctl.supervisor.vm.machine import Machine


class Hands:
    """Implements `recovery.execute.Hands`; see there for what each method guarantees."""

    def __init__(
        self, state: TopologyState, broker: Callable[[], BrokerClient], watch: Callable[[Machine], None]
    ) -> None:
        self._state = state
        self._broker = broker
        self._watch = watch
        # One at a time in each VM. Whatever is plugged or unplugged makes a guest look at every slot, and one whose
        # device is still on its way out it then ejects a second time: the next device there, if that is quick.
        self._hotplug = {vm: asyncio.Lock() for vm in state.machines}
        self._stale_interrupts = StaleInterrupts(broker)
        self.backends = Backends(broker)
        self.vhost_pci = VhostPciHooks(state, broker, self.backends)
        self._regions = IvshmemDoorbellHooks(state, broker)
        self._verification = Verification(state)

    async def fence(self, vm: str) -> None:
        await self._state.machines[vm].fence(self._broker())
        self._state.forget(vm)

    async def free_ram(self, vm: str, generation: int) -> None:
        await self._state.machines[vm].free_ram(self._broker(), generation)

    def is_booting(self, vm: str) -> bool:
        return self._state.machines[vm].is_half_booted

    async def boot(self, vm: str) -> float:
        machine = self._state.machines[vm]
        try:
            resume = machine.is_half_booted
            ms = await (machine.resume(self._broker()) if resume else machine.boot(self._broker()))
        except Exception as raised:
            error = self.foreseen(raised, "boot", vm=vm)
            machine.set_state(VmState.CRASHED, reason=error.message)  # whoever waits in `until_ready` is told
            if error is raised:
                raise
            raise error from raised
        self._watch(machine)
        return ms

    async def until_ready(self, vm: str) -> None:
        machine = self._state.machines[vm]
        while machine.state is not VmState.READY:
            if machine.state in (VmState.FAILED, VmState.STOPPED, VmState.CRASHED):
                why = f": {machine.reason}" if machine.reason is not None else ""
                raise RecoveryError(f"`{vm}` is {machine.state}{why}", hint=f"vpctl recover {vm}")
            await machine.changed.wait()

    def is_alive(self, vm: str) -> bool:
        return self._state.is_alive(vm)

    def foreseen(self, error: Exception, name: str, *, vm: str | None = None, link: str | None = None) -> VpctlError:
        return self._state.foreseen(error, name=name, vm=vm, link=link)

    def link_lock(self, link: str) -> asyncio.Lock:
        return self._state.links[link].lock

    def policy_failed(self, repair: Repair) -> None:
        self._state.links[repair.link].policy_failed(repair.policy)

    def link_broken(self, link: str, reason: str) -> None:
        self._state.links[link].set_state(LinkState.FAILED, reason=reason)

    async def repair_of(self, link_name: str) -> Repair | None:
        spec, link = self._state.topology.link(link_name), self._state.links[link_name]
        for vm in [vm for vm, there in link.plugged.items() if there and self._comes_back(vm)]:
            await self.until_ready(vm)  # a QEMU that was adopted, whose devices are there: they are taken out first
        backend = await self.vhost_pci.backend(link_name)
        alive = [end.vm for end in spec.endpoints if self.is_alive(end.vm)]
        whole = self._is_whole(link_name, backend)
        if link.state is LinkState.UP and len(alive) == len(spec.endpoints) and whole:
            return None
        view = self.vhost_pci.view(link_name, backend)
        unreachable = await self._hooks(link_name).unreachable(link_name)
        repair = plan_repair(spec, link.view(), alive, view, policy=link.take_policy(), unreachable=unreachable)
        link.begin(repair.generation)
        return repair

    def _comes_back(self, vm: str) -> bool:
        """Whether a VM is on its way to be ready, in a life that has begun."""
        return self._state.machines[vm].state in (VmState.STARTING, VmState.BOOTING) and not self.is_alive(vm)

    async def prepare_host(self, link: str) -> None:
        network = host_network(self._state.topology.link(link), self._state.rundir)
        if network is not None:
            await create(network, self._state.rundir.interface_commands(link))

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        state = self._state
        spec, machine, hooks = state.topology.link(link), state.machines[vm], self._hooks(link)
        device = plugged_device(state.run, spec, generation, vm=vm, rundir=state.rundir)
        session = await machine.qmp()
        bell = hooks.doorbell(vm, link, generation)
        gone = bell is not None and not await hotplug.present(session, device.ids().device)
        if bell is not None and gone:
            # By somebody else, or a supervisor that died then: before anything else in that QEMU gets its numbers.
            await self._stale_interrupts.unplugged(machine, bell, frozenset())
        await hooks.before_unplug(vm, link, generation)
        async with self._hotplug[vm]:
            before = files_of(machine)
            with state.links[link].taking_out(vm, device.ids().device):
                await hotplug.unplug(session, device.ids(), on_stuck=spec.recovery.on_stuck)
            if bell is not None and not gone:
                await self._stale_interrupts.unplugged(machine, bell, before)
        await hooks.after_unplug(vm, link, generation)
        state.unplugged(vm, link, generation)

    async def plug(self, vm: str, repair: Repair) -> None:
        state = self._state
        spec, machine, link = state.topology.link(repair.link), state.machines[vm], state.links[repair.link]
        steps = plug_steps(state.run, spec, repair.generation, first=repair.first, rundir=state.rundir)
        (device,) = (step.device for step in steps if step.vm == vm)
        hooks = self._hooks(repair.link)
        bell = hooks.doorbell(vm, repair.link, repair.generation)
        session = await machine.qmp()
        await hooks.before_plug(vm, repair)
        link.plugging(vm, repair.generation)
        noted = self._stale_interrupts.plugging(machine, session, bell) if bell is not None else nullcontext()
        async with self._hotplug[vm], noted:
            with link.taking_out(vm, device.ids().device):  # what fails is taken back
                await hotplug.plug(session, device)
        if vm == steps[0].vm:
            await until_listening(steps)
        if vm == steps[-1].vm:
            await stop_blocking(self._broker(), steps, state.machines)
        if repair.hold:
            await self.vhost_pci.until_taken_up(repair.link)

    def _is_whole(self, link_name: str, backend: BackendStatus | None) -> bool:
        """Whether both ends of a link are plugged; a device that was kept is of an earlier generation."""
        spec, link = self._state.topology.link(link_name), self._state.links[link_name]
        if (vm := virtio_net_end(spec)) is None:
            return all(len(link.plugged.get(end.vm, ())) == 1 for end in spec.endpoints)
        back = link.plugged.get(spec.peer_of(vm).vm)
        return back == [link.generation] and self.vhost_pci.works(link_name, backend)

    async def hold(self, vm: str, link: str, generation: int) -> None:
        await self.vhost_pci.hold(link)

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        await self._hooks(link).link_down(vm, link, generation)

    async def link_up(self, vm: str, repair: Repair) -> None:
        await self._hooks(repair.link).link_up(vm, repair, self._state.links[repair.link].kept(vm))

    def _hooks(self, link: str) -> PlugHooks:
        """Return what does the part of a link's kind that is not QEMU's."""
        state = self._state
        spec = state.topology.link(link)
        if virtio_net_end(spec) is not None:
            return self.vhost_pci
        return self._regions if shared_region(state.run, spec, 1, rundir=state.rundir) is not None else NoHooks()

    def expecting(self, link: str, vms: Collection[str]) -> AbstractAsyncContextManager[None]:
        return self._verification.expecting(link, vms)

    async def verify(self, link: str) -> float:
        for end in self._state.topology.link(link).endpoints:
            await self.until_ready(end.vm)  # one may reboot just now
        seen = await self._verification.verify(link)
        self._state.links[link].set_state(LinkState.UP)
        return seen
