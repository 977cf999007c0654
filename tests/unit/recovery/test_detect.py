"""Looks at VMs that were made up, and what they prove."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.recovery.detect import LONGEST_PAUSE, Detector, Finding, Look, Thread
from vpctl.recovery.faults import Fault
from vpctl.supervisor.watch.qemu import ASK_EVERY
from vpctl.topology.values import SHORTEST_HEARTBEAT

HEARTBEAT, QMP_TIMEOUT = 10.0, 8.0


class Vm:
    """A VM whose looks follow each other; what it does between two is said by `passes`."""

    def __init__(self) -> None:
        self.detector = Detector(heartbeat=HEARTBEAT, qmp_timeout=QMP_TIMEOUT, at=0.0)
        self.now = 0.0
        self.beat = 0
        self.vcpu = Thread(state="S", ran=0.0, waited=0.0)
        self.main = Thread(state="S", ran=0.0, waited=0.0)

    def passes(
        self,
        seconds: float,
        *,
        ran: float = 0.0,
        waited: float = 0.0,
        vcpu: str = "S",
        beats: bool = False,
        state: str | None = "S",
        answers: bool = True,
        beats_expected: bool = True,
        status: str = "running",
    ) -> Finding | None:
        """Let time pass, `ran` and `waited` of it the vCPU's, then look."""
        self.now += seconds
        self.beat += beats
        self.vcpu = Thread(state=vcpu, ran=self.vcpu.ran + ran, waited=self.vcpu.waited + waited)
        closely = self.detector.suspicious
        look = Look(
            at=self.now,
            state=state,
            beat=self.beat,
            answers=answers,
            beats_expected=beats_expected,
            threads={1: self.main, 2: self.vcpu},
            status=status if closely and answers else None,
        )
        return self.detector.take(look)

    def until_found(self, step: Callable[[float], Finding | None], *, limit: float) -> Finding | None:
        """Repeat a step, which is told how long to take, until it finds something or the limit has passed."""
        end = self.now + limit
        while self.now < end:
            if (finding := step(self.detector.pause)) is not None:
                return finding
        return None


def well(vm: Vm) -> Callable[[float], Finding | None]:
    return lambda pause: vm.passes(pause, ran=0.01, beats=True)


def spinning(vm: Vm) -> Callable[[float], Finding | None]:
    return lambda pause: vm.passes(pause, ran=pause, vcpu="R")


def halted(vm: Vm) -> Callable[[float], Finding | None]:
    return lambda pause: vm.passes(pause)


@pytest.fixture
def vm() -> Iterator[Vm]:
    made = Vm()
    assert made.until_found(well(made), limit=30) is None
    yield made


@pytest.mark.parametrize("hangs", [spinning, halted])
def test_a_guest_without_heartbeats_hangs_after_its_own_time(
    vm: Vm, hangs: Callable[[Vm], Callable[[float], Finding | None]]
) -> None:
    began = vm.now
    finding = vm.until_found(hangs(vm), limit=60)
    assert finding is not None
    assert finding.fault is Fault.GUEST_HANG
    assert finding.since == began
    assert HEARTBEAT <= vm.now - began <= HEARTBEAT + 2 * LONGEST_PAUSE


def test_a_guest_that_gets_a_quarter_of_a_cpu_hangs_after_four_times_as_long(vm: Vm) -> None:
    began = vm.now
    finding = vm.until_found(lambda pause: vm.passes(pause, ran=pause / 4, waited=pause * 3 / 4, vcpu="R"), limit=99)
    assert finding is not None
    assert finding.fault is Fault.GUEST_HANG
    assert vm.now - began > 4 * HEARTBEAT


@pytest.mark.parametrize("letter", ["R", "D", "S"])
def test_a_guest_that_the_host_gives_nothing_does_not_hang(vm: Vm, letter: str) -> None:
    waits = 0.0 if letter == "D" else 1.0
    assert vm.until_found(lambda pause: vm.passes(pause, waited=waits * pause, vcpu=letter), limit=1000) is None


def test_a_guest_that_was_paused_does_not_hang_and_has_all_its_time_afterwards(vm: Vm) -> None:
    for _ in range(100):
        assert vm.passes(vm.detector.pause, status="paused") is None
    resumed = vm.now
    finding = vm.until_found(halted(vm), limit=60)
    assert finding is not None
    assert finding.since >= resumed - LONGEST_PAUSE
    assert vm.now - resumed >= HEARTBEAT


def test_a_guest_that_boots_again_does_not_hang(vm: Vm) -> None:
    booting = vm.until_found(lambda pause: vm.passes(pause, ran=pause, vcpu="R", beats_expected=False), limit=300)
    assert booting is None


def test_a_gap_of_our_own_restarts_the_clocks(vm: Vm) -> None:
    for _ in range(50):
        for _ in range(5):
            assert vm.passes(0.4, ran=0.4, vcpu="R") is None
        assert vm.passes(30.0, ran=30.0, vcpu="R") is None


def test_a_stopped_qemu_is_a_fault_once_it_stays_so(vm: Vm) -> None:
    began = vm.now
    assert vm.passes(1.0, state="T") is None
    finding = vm.until_found(lambda pause: vm.passes(pause, state="T"), limit=5)
    assert finding is not None
    assert (finding.fault, finding.since) == (Fault.QEMU_STOPPED, began)
    assert vm.now - began < 2.5


def test_a_qemu_that_is_stopped_again_and_again_for_a_moment_is_well(vm: Vm) -> None:
    for _ in range(100):
        assert vm.passes(0.4, state="T") is None
        assert vm.passes(0.4, beats=True) is None


def test_a_qemu_in_a_debugger_is_well(vm: Vm) -> None:
    assert vm.until_found(lambda pause: vm.passes(pause, state="t", answers=False), limit=300) is None


def test_a_qemu_that_answers_nothing_is_silent_and_not_its_guest(vm: Vm) -> None:
    began = vm.now
    finding = vm.until_found(lambda pause: vm.passes(pause, answers=False), limit=60)
    assert finding is not None
    assert (finding.fault, finding.since) == (Fault.QMP_SILENT, began)
    assert QMP_TIMEOUT <= vm.now - began <= QMP_TIMEOUT + 2 * LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status", "fault"), [("guest-panicked", Fault.GUEST_PANIC), ("internal-error", Fault.GUEST_HANG)]
)
def test_what_qemu_says_of_a_guest_that_is_over_counts_at_once(vm: Vm, status: str, fault: Fault) -> None:
    finding = vm.until_found(lambda pause: vm.passes(pause, status=status), limit=6)
    assert finding is not None
    assert finding.fault is fault


def test_looks_that_ask_nothing_neither_prove_nor_disprove_a_heartbeat(vm: Vm) -> None:
    for _ in range(100):
        vm.now += 2.0
        assert vm.detector.take(Look(at=vm.now, state="S", beat=-1, asked=False)) is None
        assert not vm.detector.suspicious
    began = vm.now
    vm.now += 1.0
    assert vm.detector.take(Look(at=vm.now, state="T", asked=False)) is None
    vm.now += 1.0
    finding = vm.detector.take(Look(at=vm.now, state="T", asked=False))
    assert finding is not None
    assert (finding.fault, finding.since) == (Fault.QEMU_STOPPED, began)


def test_a_first_look_proves_nothing() -> None:
    fresh = Vm()
    assert fresh.passes(3600.0, answers=False, ran=3600.0, vcpu="R") is None


def found_in(guest_beats_every: float, *, limit: float, phase: float, late: list[float]) -> Finding | None:
    """Watch a guest that spins and beats, by looks that come late; return what is found in it."""
    detector = Detector(heartbeat=limit, qmp_timeout=QMP_TIMEOUT, at=0.0)
    now = 0.0
    for number, lateness in enumerate(late):
        now += detector.pause + lateness
        closely = detector.suspicious
        look = Look(
            at=now,
            state="S",
            beat=int((now + phase) / guest_beats_every),
            asked=closely or number % ASK_EVERY == 0,
            threads={1: Thread(state="R", ran=now, waited=0.0)},
            status="running" if closely else None,
        )
        if (finding := detector.take(look)) is not None:
            return finding
    return None


@given(st.floats(SHORTEST_HEARTBEAT, 20.0), st.floats(0.0, 2.0), st.lists(st.floats(0.0, 0.2), max_size=100))
def test_one_lost_beat_is_no_hang_with_the_shortest_limit_that_a_file_may_give(
    limit: float, phase: float, late: list[float]
) -> None:
    assert found_in(2.0, limit=limit, phase=phase, late=late) is None


def test_one_lost_beat_would_be_a_hang_with_a_limit_that_no_file_may_give() -> None:
    finding = found_in(2.0, limit=1.5, phase=0.0, late=[0.0] * 100)
    assert finding is not None
    assert finding.fault is Fault.GUEST_HANG


times = st.floats(0.05, 3.0)
shares = st.floats(0.0, 1.0)
letters = st.sampled_from("RSD")


@given(st.lists(st.tuples(times, shares, shares, letters), max_size=200))
def test_no_share_of_the_host_makes_a_guest_hang_that_beats(looks: list[tuple[float, float, float, str]]) -> None:
    vm = Vm()
    for seconds, ran, waited, letter in looks:
        # It beats whenever it has had a second, or half the limit at the latest, for itself.
        found = vm.passes(seconds, ran=ran * seconds, waited=(1 - ran) * waited * seconds, vcpu=letter, beats=True)
        assert found is None


@given(st.lists(st.tuples(times, letters), max_size=300))
def test_a_guest_never_hangs_in_less_than_the_limit_of_its_own_time(looks: list[tuple[float, str]]) -> None:
    vm = Vm()
    assert vm.passes(1.0, beats=True) is None
    own = 0.0
    for seconds, letter in looks:
        own += seconds
        found = vm.passes(seconds, ran=seconds, vcpu=letter)
        if found is not None:
            assert found.fault is Fault.GUEST_HANG
            assert own >= HEARTBEAT
            return


@given(st.lists(st.tuples(times, st.sampled_from("RSTtDZ"), st.booleans(), st.booleans()), max_size=200))
def test_whatever_is_seen_gives_a_pause_and_at_most_a_finding(looks: list[tuple[float, str, bool, bool]]) -> None:
    vm = Vm()
    for seconds, letter, answers, beats in looks:
        found = vm.passes(seconds, state=letter, answers=answers, beats=beats, vcpu=letter)
        assert 0 < vm.detector.pause <= LONGEST_PAUSE
        if found is not None:
            assert found.since <= vm.now


def test_without_times_of_threads_hangs_are_judged_by_the_clock() -> None:
    """Kernels without schedstat, gVisor: neither a hang nor a QEMU that answers nothing was ever found there."""
    for answers, fault in ((True, Fault.GUEST_HANG), (False, Fault.QMP_SILENT)):
        detector = Detector(heartbeat=HEARTBEAT, qmp_timeout=QMP_TIMEOUT, at=0.0, by_clock=True)
        now, found = 0.0, None
        while found is None:
            now += detector.pause
            assert now < 3 * HEARTBEAT, "nothing was found"
            status = "running" if detector.suspicious and answers else None
            found = detector.take(Look(at=now, state="S", beat=1, answers=answers, status=status))
        assert found.fault is fault
        limit = HEARTBEAT if answers else QMP_TIMEOUT
        assert limit <= now <= limit + 2 * LONGEST_PAUSE
        assert "own time" not in found.reason


def test_by_the_clock_a_guest_that_beats_is_well() -> None:
    detector = Detector(heartbeat=HEARTBEAT, qmp_timeout=QMP_TIMEOUT, at=0.0, by_clock=True)
    for beat in range(100):
        assert detector.take(Look(at=float(beat), state="S", beat=beat)) is None
