"""Is a VM that claims to be ready really well? QMP, a new heartbeat and its links must all answer now."""

from __future__ import annotations

from vpctl import wait
from vpctl.errors import QmpLostError, VpctlError
from vpctl.process import read_stat
from vpctl.recovery.detect import STATUS_FAULTS
from vpctl.recovery.faults import Fault
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.heartbeats import last_beat
from vpctl.supervisor.vm.machine import Machine

BEAT_SECONDS = 5.0
"""For a new heartbeat; the agent beats once a second."""

PROBE_SECONDS = 5.0
"""For a packet over a link that is said to be up."""

END_SECONDS = 1.0
"""For the word of a QEMU's end: a process that ends closes its sockets first, and who waits for it is told last."""


async def broken_links(state: TopologyState, vm: str) -> dict[str, str]:
    """Return the links of a VM, to others that are ready and run, over which no packets come, each with why."""
    broken: dict[str, str] = {}
    for link in state.topology.links_of(vm):
        if state.is_ready(link.peer_of(vm).vm) and not state.paused(link.name):
            for check in await state.probe(link.name, count=1, seconds=PROBE_SECONDS):
                if not check["ok"]:
                    broken[link.name] = f"{check['from']} to {check['to']}: {check['reason']}"
    return broken


async def unresponsive(machine: Machine) -> tuple[Fault, str] | None:
    """Return how and why a VM does not respond, or None if it does.

    A VM whose image is the user's own need not run the agent: there ssh stands for the heartbeat. A lost connection
    is told only after `END_SECONDS`: whoever sees QEMU end until then knows more of it, and need not wait for this.
    """
    if machine.process is not None and is_stopped(machine.process.pid):
        return Fault.QEMU_STOPPED, f"{machine.name}: its QEMU is stopped"
    fault = Fault.QMP_SILENT
    try:
        session = await machine.qmp()
        status = (await session.execute("query-status"))["status"]
        fault = STATUS_FAULTS.get(status, Fault.GUEST_HANG)
        if status != "running":
            return fault, f"{machine.name} is {status}"
        if machine.spec.vm.image.name is None:
            await machine.ssh()
            return None
        before = await last_beat(machine)

        async def newer() -> bool | None:
            return await last_beat(machine) != before or None

        await wait.until(newer, timeout=BEAT_SECONDS, what=f"{machine.name}: a new heartbeat", every=0.1)
    except VpctlError as error:
        if isinstance(error, QmpLostError) or machine.process is None:
            await wait.pause(END_SECONDS)
        return fault, error.message
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"
