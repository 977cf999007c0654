"""One VM over all its lives: spawn, the stages of its boot, its sessions, its end.

A *generation* is one QEMU process. Whatever a stage waits for, it also waits for the process's end, so a QEMU that
dies fails the boot at once, with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpctl import wait
from vpctl.broker.client import BrokerClient
from vpctl.broker.protocol import Exit
from vpctl.errors import HostError, NotFoundError, QmpError, QmpTimeoutError, ReadyTimeoutError, VpctlError
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.heartbeat import Heartbeat
from vpctl.journal import Journal
from vpctl.log_files import limit, prune
from vpctl.plan.run import Run
from vpctl.process import ProcessId, files_left
from vpctl.process_record import Child, process_name
from vpctl.qmp.session import QmpRefusedError, Session
from vpctl.recovery.detect import STATUS_FAULTS
from vpctl.recovery.faults import Fault, Incident, Signs
from vpctl.recovery.state import BOOT_STAGES, VmState
from vpctl.rundir import RunDir, read_json
from vpctl.supervisor.vm.boot_error import boot_error
from vpctl.supervisor.vm.boot_stages import STAGE_SECONDS, Stages
from vpctl.supervisor.vm.connections import Connections
from vpctl.supervisor.vm.exit import VmEnd, describe_end
from vpctl.supervisor.vm.serial_log import SerialLog
from vpctl.supervisor.vm.spawn import free_ram, prepare, spawn

if TYPE_CHECKING:
    import asyncssh


FEW_FDS = 64
"""Descriptors left, below which a QEMU's limit is worth a warning."""

END_SECONDS = 3.0
"""For the end of a QEMU to be told, once a connection to it has broken: the broker reaps it and says so."""


class Machine:
    """One VM. `state` changes only through `set_state`, which journals it and tells the supervisor."""

    def __init__(self, name: str, run: Run, rundir: RunDir, journal: Journal, on_change: Callable[[], None]) -> None:
        self.name = name
        self.spec = run.machine(name)
        self.state = VmState.STARTING
        self.reason: str | None = None
        """Why it is in this state, if that needs a reason."""
        self.generation = 0
        self.process: ProcessId | None = None
        self.connections = Connections(self.spec, run, rundir, journal)
        self.boot_ms = 0.0
        self.stages = Stages(name, run.stage_seconds, journal)
        self.ended: asyncio.Future[VmEnd] | None = None
        self.changed = asyncio.Event()
        """Set, and replaced, at every change of state."""
        self.needs_resume = False
        self.incident: Incident | None = None
        """What is to be recovered, or being; written down, so that a successor finishes it."""
        self.last_beat: Heartbeat | None = None
        self.paused: str | None = None
        """QEMU's word for why its vCPUs stand still although nothing is wrong (`qmp stop`); None: they run."""
        self.reboots = 0
        """How often its guest was reset in a QEMU that lives on."""
        self.parked_fds = 0
        """Idle descriptors that its QEMU was given to keep, see `fd_parking`."""
        self.interrupts: dict[str, list[int]] = {}
        """Device → numbers of the descriptors by which its QEMU hears its interrupts, if it will not forget them."""
        self.on_reset: Callable[[], None] | None = None
        """Called when the guest of a VM that is ready was reset, by itself or over QMP."""
        self.on_device_deleted: Callable[[str], None] | None = None
        """Called with the id of a device that has gone, whoever asked it to, while the guest is ready."""
        self._run = run
        self._rundir = rundir
        self._journal = journal
        self._on_change = on_change
        self._signs = Signs()
        self._serial_log = SerialLog(self.logs / "serial.log")
        self._boots_again = False
        """Whether the guest was reset in the QEMU that it has."""
        self._entered: tuple[VmState, int] | None = None
        self._argv: list[str] = []

    def limit_logs(self) -> None:
        """See that the logs of the present generation, which its QEMU holds open, stay within their limits."""
        if self.generation:
            self._serial.limit()
            limit(self.logs / "qemu.log")

    # Section: state

    def set_state(self, state: VmState, *, reason: str | None = None) -> None:
        """Enter a state; journalled unless it is the present one."""
        if (state, self.generation) == self._entered:
            return
        self.state, self.reason, self._entered = state, reason, (state, self.generation)
        attributes: dict[str, Any] = {"state": str(state), "generation": self.generation}
        if reason is not None:
            attributes["reason"] = reason
        self._journal.write("vm.state", vm=self.name, attributes=attributes)
        self._changed()

    def _changed(self) -> None:
        self._on_change()
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def is_paused(self) -> bool:
        """Whether its guest is there, and its vCPUs were stopped by a user."""
        return self.paused is not None and self.state is VmState.READY

    @property
    def is_rebooting(self) -> bool:
        """Whether the guest boots again in the QEMU that it has."""
        return self.state is VmState.BOOTING and self._boots_again

    @property
    def is_half_booted(self) -> bool:
        """Whether a boot was begun by a supervisor before this one, and its QEMU runs."""
        return self.needs_resume and self.process is not None

    @property
    def timings(self) -> list[dict[str, Any]]:
        """How long each stage of its last boot took."""
        return self.stages.timings

    @property
    def _serial(self) -> SerialLog:
        path = self.logs / "serial.log"
        if self._serial_log.path != path:  # another generation's
            self._serial_log = SerialLog(path)
        return self._serial_log

    @property
    def logs(self) -> Path:
        """The log directory of the present generation."""
        return self._rundir.generation(self.name, self.generation)

    def as_json(self) -> dict[str, Any]:
        """Return the VM as `status` shows it; the extra keys are what a successor needs."""
        return {
            "name": self.name,
            "state": str(self.state),
            "reason": self.reason if not self.is_paused else self._why_paused(),
            "paused": self.is_paused,
            "pid": self.process.pid if self.process is not None else None,
            "accelerator": self.spec.accelerator,
            "accelerator_reason": self.spec.accelerator_reason,
            "qemu_version": ".".join(str(part) for part in self.spec.qemu_version),
            "generation": self.generation,
            "ssh": {
                "host": "127.0.0.1",
                "port": self.connections.ssh_port or None,
                "user": self.spec.vm.image.ssh_user,
                "identity": str(self.connections.ssh_address.identity) if self.connections.ssh_port else None,
                "host_key": self.connections.ssh_address.host_key if self.connections.ssh_port else None,
            },
            "agent": self.connections.agent,
            "incident": self.incident.as_json() if self.incident is not None else None,
            "parked_fds": self.parked_fds,
            "interrupts": self.interrupts,
            "qmp": str(self._rundir.people_qmp_socket(self.name)),
            "console": str(self._rundir.console_socket(self.name)),
            "logs": str(self.logs) if self.generation else None,
        }

    # Section: life

    async def boot(self, broker: BrokerClient) -> float:
        """Start the next generation and bring it to authenticated ssh; return the milliseconds that took.

        Raises ReadyTimeoutError, HostError or QmpError with the stage, QEMU's end if it ended, its stderr, the
        last serial lines and the command; the process is left to be fenced.
        """
        await self.connections.close()
        self.generation += 1
        self.last_beat, self._boots_again, self.needs_resume = None, False, False
        self.parked_fds, self.interrupts, self.paused = 0, {}, None
        self.set_state(VmState.STARTING)
        prune(self.logs.parent, present=self.generation)
        return await self._to_ready(broker, adopted=False)

    async def adopt(self, child: Child, *, ready: bool) -> None:
        """Take over a QEMU that a supervisor before this one started; one that was booting waits for `resume`."""
        self.process = child.process
        self.generation = child.generation
        self.ended = asyncio.get_running_loop().create_future()
        if not ready:
            self.needs_resume = True
            return
        with contextlib.suppress(VpctlError):  # who needs QMP later asks again and is told what is wrong
            session = await self.qmp()
            status = (await session.execute("query-status"))["status"]
            if status == "guest-panicked":
                self.take_event({"event": "GUEST_PANICKED"})  # while nobody listened
            self.take_run_state(status)
        self.state = VmState.READY
        self._entered = (self.state, self.generation)

    async def resume(self, broker: BrokerClient) -> float:
        """See through a boot that a supervisor before this one began; returns and raises what `boot` does."""
        await (
            self.connections.close()
        )  # a session that has asked for its devices: QEMU serves one client on its socket
        self.needs_resume = False
        return await self._to_ready(broker, adopted=True)

    def begin_reboot(self) -> None:
        """Take in that the guest was reset: what led into it is stale, and it boots again in the same QEMU."""
        self.reboots += 1
        self.connections.drop_ssh()
        self.last_beat = None
        self._serial.begin_boot()
        self._boots_again = True
        now = time.monotonic()
        self.incident = Incident(fault=Fault.GUEST_REBOOT, at=now, detected_at=now)
        self.set_state(VmState.BOOTING, reason="the guest reboots")

    async def finish_reboot(self) -> None:
        """See the reboot through to authenticated ssh; ReadyTimeoutError if the guest, or its QEMU, fails."""
        began = time.monotonic()
        self.stages.forget("ssh")
        await wait.first(self._reboot(), unless=self._death())
        self.boot_ms = (time.monotonic() - began) * 1000
        self.set_state(VmState.READY)

    def restore(self, entry: Mapping[str, Any]) -> None:
        """Take over what a supervisor before this one wrote down."""
        self.generation = entry["generation"]
        self.connections.ssh_port = entry["ssh"]["port"] or 0
        if self.spec.vm.image.name is None:
            self.connections.host_key = entry["ssh"].get("host_key")
        self.parked_fds, self.interrupts = entry["parked_fds"], dict(entry["interrupts"])
        self.incident = Incident.from_json(entry["incident"]) if entry.get("incident") else None
        state = VmState(entry["state"])
        self.reason = entry.get("reason")
        # What it had in hand is begun again; what ran is looked at by `adopt`.
        unfinished = (VmState.STARTING, VmState.BOOTING)
        self.state = VmState.CRASHED if state is VmState.RECOVERING else state
        if state in unfinished:
            self.state = VmState.STARTING
        self._entered = (self.state, self.generation)

    def lost_unseen(self, exit_: Exit) -> None:
        """Take in an end that came while no supervisor was there to see it."""
        self.ended = asyncio.get_running_loop().create_future()
        self.take_exit(exit_)

    async def _to_ready(self, broker: BrokerClient, *, adopted: bool) -> float:
        began = time.monotonic()
        self.ended = asyncio.get_running_loop().create_future()
        self._signs = Signs()
        if not adopted:
            self.stages.forget(*BOOT_STAGES)
        try:
            await wait.first(self._stages(broker, adopted=adopted), unless=self._death())
        except VpctlError as error:
            raise self._boot_error(await self._cause(error), self.stages.present) from error
        self.boot_ms = (time.monotonic() - began) * 1000
        self.set_state(VmState.READY)
        return self.boot_ms

    async def _stages(self, broker: BrokerClient, *, adopted: bool) -> None:
        if not adopted:
            with self.stages.timed("process"):
                self._argv = prepare(self.spec, self._run, self._rundir, self.generation)
                child = await spawn(
                    broker, self.spec, self._run, self._rundir, generation=self.generation, argv=self._argv
                )
                self.process = child.process
                self._on_change()
        self.set_state(VmState.BOOTING)
        with self.stages.timed("qmp") as limit:
            session = await self.connections.open_session(limit)
            await self.connections.forward_ssh(session)
            self._on_change()
        with self.stages.timed("kernel") as limit:
            guest_ssh.load()  # while the guest's kernel has the longest way to go
            await self.connections.guest_speaks(limit, serial=self._serial.speaks)
        await self._reach_ssh()
        # From here on a reboot is the guest's own affair again; a panic is seen by pvpanic now.
        await session.execute("set-action", {"reboot": "reset"})

    async def _reboot(self) -> None:
        # As in a first boot, a panic that pvpanic does not see is to be an exit. But only once the new kernel speaks:
        # q35 is reset twice, and the second one of those is no panic.
        arming = asyncio.create_task(self._arm_for_early_panic(), name=f"arm-{self.name}")
        try:
            await self._reach_ssh()
        finally:
            arming.cancel()
        await (await self.qmp()).execute("set-action", {"reboot": "reset"})

    async def _arm_for_early_panic(self) -> None:
        with contextlib.suppress(VpctlError, OSError):
            await wait.until(self._serial.speaks, timeout=STAGE_SECONDS["kernel"], what="serial output", every=0.05)
            await (await self.qmp()).execute("set-action", {"reboot": "shutdown"})

    async def _reach_ssh(self) -> None:
        with self.stages.timed("ssh") as limit:
            await self.connections.wait_for_ssh(limit, listens=self._serial.says_ssh)

    async def free_ram(self, broker: BrokerClient, generation: int) -> None:
        """Give the memory of a life that is over back, once whoever else maps it lets go."""
        await free_ram(broker, self.spec, self._run, generation)

    # Section: its end

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Take in a QMP event; a panic ends the generation although QEMU lives on, paused."""
        self._signs = self._signs.after(event)
        if event["event"] in ("STOP", "RESUME"):
            self.take_run_state("paused" if event["event"] == "STOP" else "running")
        elif event["event"] == "GUEST_PANICKED":
            self._end(VmEnd(status=None, signs=self._signs, monotonic=time.monotonic(), process_ended=False))
        elif self.state is not VmState.READY:
            return
        elif event["event"] == "RESET" and self.on_reset is not None:
            self.on_reset()  # q35 sends the event twice; at the second one the state is another
        elif event["event"] == "DEVICE_DELETED" and "device" in event["data"] and self.on_device_deleted is not None:
            self.on_device_deleted(event["data"]["device"])  # virtio sends an earlier one, without the id

    def take_run_state(self, status: str) -> None:
        """Take in what QEMU says of its vCPUs (RunState of QMP): a user, or a debugger, may have stopped them."""
        paused = None if status == "running" or status in STATUS_FAULTS else status
        if paused != self.paused:
            self.paused = paused
            self._changed()

    def _why_paused(self) -> str:
        by = f" ({self.paused})" if self.paused != "paused" else ""
        return f"its vCPUs are stopped{by}: `vpctl qmp {self.name} cont` lets them run"

    def take_exit(self, exit_: Exit) -> None:
        """Take in the end of a QEMU; one of another generation is of no interest."""
        if exit_.generation != self.generation:
            return
        self.process = None
        self._end(VmEnd(status=exit_.status, signs=self._signs, monotonic=exit_.monotonic, process_ended=True))
        self._on_change()

    def recorded_exit(self) -> Exit | None:
        """Return the exit that the broker wrote down for the present generation, if it did."""
        record = read_json(self.logs / "exit.json")
        return Exit.from_json(record) if isinstance(record, dict) else None

    def _end(self, ended: VmEnd) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(ended)

    async def _death(self) -> ReadyTimeoutError:
        """Wait for the end of the generation; return it as an error of the boot stage that it fell into."""
        assert self.ended is not None
        ended = await asyncio.shield(self.ended)
        return ReadyTimeoutError(describe_end(ended))

    async def _cause(self, error: VpctlError) -> VpctlError:
        """Return why a boot failed: of a QEMU that ends, a connection that breaks is often seen first."""
        if self.process is None or isinstance(error, QmpRefusedError | QmpTimeoutError | HostError):
            return error
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                return await self._death()
        return error

    async def end_after_boot(self) -> VpctlError:
        """Wait for the end of a generation that is ready; return it as the error of an `up` that is not done yet."""
        death = await self._death()
        return self._boot_error(ReadyTimeoutError(f"{death.message} before everything was up"), None)

    def _boot_error(self, error: VpctlError, stage: str | None) -> VpctlError:
        return boot_error(error, vm=self.name, stage=stage, logs=self.logs)

    async def fence(self, broker: BrokerClient) -> None:
        """Kill the generation, if it runs, and return when its pidfd has signalled."""
        await self.connections.close()
        if self.generation:
            await broker.end(name=process_name(self.name), generation=self.generation, grace=0.0)
        if self.process is not None and self.process.is_alive():
            self.process = None
            raise QmpError(f"{self.name}: its QEMU does not end")
        self.process = None
        await self.free_ram(broker, self.generation)
        self._on_change()

    # Section: ways in

    async def qmp(self) -> Session:
        """Return the QMP session, connecting again if it was lost while QEMU lives."""
        if self.process is None:
            raise NotFoundError(f"VM `{self.name}` does not run", hint=f"vpctl recover {self.name}")
        return await self.connections.qmp()

    async def answers(self) -> bool:
        """Whether its QEMU answers over QMP; one whose end is seen meanwhile is not tried again."""
        assert self.ended is not None

        async def ask() -> None:
            await (await self.qmp()).execute("query-status")

        try:
            await wait.first(ask(), unless=self._death())
        except VpctlError:
            return False
        return True

    async def ssh(self) -> asyncssh.SSHClientConnection:
        """Return the ssh connection, logging in again if it broke."""
        if self.state is not VmState.READY:
            raise NotFoundError(f"VM `{self.name}` is {self.state}, not ready", hint="vpctl status")
        if self.is_paused:
            raise NotFoundError(f"VM `{self.name}` is paused", hint=f"vpctl qmp {self.name} cont")
        return await self.connections.ssh()

    def hears(self, device: str, numbers: Collection[int]) -> None:
        """Take in by which descriptors its QEMU hears a device; written down, since it hears them for ever."""
        self.interrupts[device] = sorted(numbers)
        self._on_change()

    def parked(self, device: str, count: int) -> None:
        """Take in that its QEMU keeps more idle descriptors in place of a device's; warn when it has few left."""
        self.interrupts.pop(device, None)
        self.parked_fds += count
        left = files_left(self.process.pid) if self.process is not None else None
        if left is not None and left < FEW_FDS:
            attributes = {
                "warning": "file-descriptors",
                "left": left,
                "parked": self.parked_fds,
                "hint": f"vpctl recover {self.name} --force begins afresh; a higher `ulimit -Hn` lasts longer",
            }
            self.warn(attributes)
        self._on_change()

    def warn(self, attributes: Mapping[str, Any]) -> None:
        """Write something down that is wrong, and no fault."""
        self._journal.write("warning", vm=self.name, attributes=attributes)

    async def close(self) -> None:
        """Leave the VM as it is; close our connections."""
        await self.connections.close()
