"""Faults that nobody tells of, found in what was seen of a VM over time. Pure.

A guest counts as hung by its own time, not the host's: time for which its vCPUs ran or slept, and not that for which
they waited for a CPU of the host. A host that gives a guest nothing makes no hung guest, however long that lasts.
Where the kernel keeps no such times (schedstat), the clock is all there is: a limit is then one of wall time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vpctl.recovery.faults import Fault

STOPPED_SECONDS = 0.5
"""A QEMU that is stopped for less is none of our business: somebody looks at it, and lets it go on."""

LONGEST_PAUSE = 2.5
SHORTEST_PAUSE = 0.2
"""Seconds between two looks: a quarter of the limit, and the shortest as soon as something is suspicious."""

GAP = 2.0
"""Seconds by which a look may come late; later means that it is us who did not run, and all clocks start anew."""

STATUS_FAULTS: Mapping[str, Fault] = MappingProxyType(
    {"guest-panicked": Fault.GUEST_PANIC, "internal-error": Fault.GUEST_HANG}
)
"""What QEMU's run state says of a guest that will never go on. Any other but `running` is somebody's wish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """A thread at one moment: its state's letter, the seconds it has run, and those it has waited for a CPU."""

    state: str
    ran: float
    waited: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What was seen of a VM at one moment (CLOCK_MONOTONIC, seconds)."""

    at: float
    state: str | None
    """The letter of its process's state; None: it is gone, which is told by others."""
    beat: Hashable = None
    """The newest sign of life: another one than before means that the guest lives."""
    asked: bool = True
    """Whether QEMU was asked at all; if not, only its process's state was looked at."""
    answers: bool = True
    """Whether QEMU has answered the last question that it was asked."""
    beats_expected: bool = True
    """False while the guest boots again."""
    threads: Mapping[int, Thread] = field(default_factory=dict)
    """Its vCPUs and main loop."""
    status: str | None = None
    """QEMU's run state; asked while something is suspicious."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A fault, since when it was there as far as one can tell, and why it is believed."""

    fault: Fault
    since: float
    reason: str


def own_time(before: Look, after: Look, *, by_clock: bool = False) -> float:
    """Return the seconds between two looks that a VM had for itself; 0 if nobody looked at its threads.

    `by_clock`: where no thread's times can be had, all the time that has passed.

    Threads that all sleep at both looks have had all the time that they did not wait for a CPU. Otherwise only what
    they ran counts: one that is to run, and does not, is held by the host.
    """
    pairs = [(before.threads[number], thread) for number, thread in after.threads.items() if number in before.threads]
    wall = after.at - before.at
    if not pairs:
        return wall if by_clock else 0.0
    if all(old.state == new.state == "S" for old, new in pairs):
        return min(wall, max(0.0, wall - max(new.waited - old.waited for old, new in pairs)))
    return min(wall, max(0.0, *(new.ran - old.ran for old, new in pairs)))


class Clock:
    """Counts own time for as long as something that should happen does not."""

    def __init__(self, at: float) -> None:
        self.restart(at)

    def restart(self, at: float) -> None:
        """It has happened, or is not expected to."""
        self.since, self.counted = at, 0.0


class Detector:
    """One VM's; `take` says what each look proves. `by_clock`: this kernel keeps no times of threads."""

    def __init__(self, *, heartbeat: float, qmp_timeout: float, at: float, by_clock: bool = False) -> None:
        self._by_clock = by_clock
        self._heartbeat = heartbeat
        self._qmp_timeout = qmp_timeout
        self._last: Look | None = None
        """The last look at which QEMU was asked."""
        self._looked_at: float | None = None
        self._beats = Clock(at)
        self._answers = Clock(at)
        self._stop: tuple[float, float] | None = None
        """Since when its process is stopped: last seen to run, first seen stopped."""
        self.suspicious = False
        """Whether the next look has to take in the run state too."""

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        usual = max(SHORTEST_PAUSE, min(LONGEST_PAUSE, self._heartbeat / 4, self._qmp_timeout / 4))
        return min(usual, 2 * SHORTEST_PAUSE) if self.suspicious else usual

    @property
    def is_overdue(self) -> bool:
        """Whether heartbeats are missing for so long that another sign of life is worth asking for."""
        return self._beats.counted >= self._heartbeat / 4

    def take(self, look: Look) -> Finding | None:
        """Take in one look; return the fault that it proves."""
        before, looked_at = self._last, self._looked_at
        self._looked_at = look.at
        if look.asked:
            self._last = look
        if before is None or looked_at is None or look.at - looked_at > LONGEST_PAUSE + GAP:
            self._restart(look.at)
            return None
        if look.state in ("T", "t", None):
            return self._stopped(looked_at, look)
        self._stop = None
        if not look.asked:
            return None
        own = own_time(before, look, by_clock=self._by_clock)
        finding = self._qmp(look, own) or (self._guest(before, look, own) if look.answers else None)
        self.suspicious = look.at > min(self._beats.since, self._answers.since)
        return finding

    def _restart(self, at: float) -> None:
        self._beats.restart(at)
        self._answers.restart(at)
        self.suspicious = False

    def _stopped(self, ran_at: float, look: Look) -> Finding | None:
        self._restart(look.at)
        self.suspicious = True
        if look.state != "T":  # `t`: in a debugger's hands
            self._stop = None
            return None
        ran, seen = self._stop = self._stop or (ran_at, look.at)
        if look.at - seen < STOPPED_SECONDS:
            return None
        return Finding(fault=Fault.QEMU_STOPPED, since=ran, reason="its QEMU is stopped (SIGSTOP)")

    def _qmp(self, look: Look, own: float) -> Finding | None:
        if look.answers:
            self._answers.restart(look.at)
            return None
        self._answers.counted += own
        if self._answers.counted < self._qmp_timeout:
            return None
        reason = f"QEMU has answered nothing over QMP for {self._answers.counted:.1f} s"
        return Finding(fault=Fault.QMP_SILENT, since=self._answers.since, reason=reason)

    def _guest(self, before: Look, look: Look, own: float) -> Finding | None:
        if look.status is not None and look.status != "running":
            fault = STATUS_FAULTS.get(look.status)
            since = self._beats.since
            self._beats.restart(look.at)
            return Finding(fault=fault, since=since, reason=f"QEMU says {look.status}") if fault is not None else None
        if look.beat != before.beat or not look.beats_expected:
            self._beats.restart(look.at)
            return None
        self._beats.counted += own
        if self._beats.counted < self._heartbeat or look.status is None:
            return None
        whose = "" if self._by_clock else " of the guest's own time"
        reason = f"no heartbeat for {self._beats.counted:.1f} s{whose}"
        return Finding(fault=Fault.GUEST_HANG, since=self._beats.since, reason=reason)
