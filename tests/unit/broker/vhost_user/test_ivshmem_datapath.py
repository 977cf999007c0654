"""The ivshmem-doorbell device as a data path: real sockets, eventfds and a control page, with a played driver."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fakes.ivshmem_host import sealed_memory
from tests.unit.broker.ivshmem.serving import client, count_of, greeted, rung
from tests.unit.broker.ivshmem.test_bells import block
from vpctl.broker import control_page
from vpctl.broker.control_page import ANSWER, HOST_ID, PEER_REGION, PEER_RING, SLOT, Answer, PeerRegion
from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.message import REGION
from vpctl.broker.ivshmem.peer_server import MOST_ACKS
from vpctl.broker.vhost_user import ivshmem_datapath
from vpctl.broker.vhost_user.datapath import Eventfd, Vring, VringSet
from vpctl.broker.vhost_user.ivshmem_datapath import CALLS_OF_A_RING, DeviceSpec, IvshmemDatapath
from vpctl.process import eventfd_id, open_files
from vpctl.wait import pause, until

MIB = 1 << 20
SLOT_AT = control_page.slot_offset(3)
ANSWER_AT = SLOT_AT + SLOT.offsets["answer"]
OWN_ID = 2
"""As a VM's first device has it: the calls' peer is then another."""


class Device:
    """A data path with RAM and control page, a front-end's kicks and calls, and the driver of the other guest."""

    def __init__(self, path: Path, *, rings: int = 2, vectors: int = 3, id_: int = OWN_ID) -> None:
        self.path = path
        self.ram = sealed_memory("ram", 16 * MIB)
        self.page = sealed_memory("control", control_page.PAGE_SIZE)
        self.kicks = [eventfd() for _ in range(rings)]
        self.calls = [eventfd() for _ in range(rings)]
        self.heard: list[str] = []
        self.answers: list[Answer] = []
        self.stuck: list[str] = []
        self.bells = Bells()
        description = SLOT.pack(generation=7, kind=2, mtu=1500, mac=b"\2abcde", name=b"lan0", ivposition=id_)
        self.datapath = IvshmemDatapath(
            DeviceSpec(
                name="lan0.g2", path=str(path), id=id_, vectors=vectors, slot=SLOT_AT, description=description
            ),
            ram=self.ram,
            control=self.page,
            tell=self.heard.append,
            answered=self.answers.append,
            stuck=self.stuck.append,
            bells=self.bells,
        )

    @property
    def vrings(self) -> VringSet:
        """Return rings of 256 descriptors, one after the other."""
        rings = zip(self.kicks, self.calls, strict=True)
        return VringSet(
            features=0x123,
            regions=(PeerRegion(address=0, size=16 * MIB, offset=0),),
            rings=tuple(
                Vring(desc=at, avail=at + 4096, used=at + 8192, size=256, kick=kick, call=call)
                for at, (kick, call) in zip(range(0, 1 << 20, 16384), rings)  # noqa: B905 - as many as there are
            ),
        )

    def slot(self) -> dict[str, int | bytes]:
        return SLOT.unpack(os.pread(self.page, SLOT.size, SLOT_AT))

    def rings(self) -> list[dict[str, int | bytes]]:
        slot = os.pread(self.page, SLOT.size, SLOT_AT)
        return [PEER_RING.unpack(slot[control_page.peer_ring_offset(number) :]) for number in range(len(self.kicks))]

    def answer(self, state: int, request: int, *, sequence: int = 0, features: int = 0, id_: int = OWN_ID) -> None:
        """Write an answer, as a driver does."""
        answer = ANSWER.pack(state=state, ivposition=id_, sequence=sequence, request=request, features=features)
        os.pwrite(self.page, answer, ANSWER_AT)

    async def settled(self) -> None:
        """Wait until all that was to be signalled before was."""
        last = eventfd()
        bell = self.bells.bell(last.fd, lambda: None)
        bell.ring()
        await rung(last.fd)
        bell.close()
        os.close(last.fd)

    def close(self) -> None:
        self.datapath.detach()
        self.bells.close()
        for fd in (self.ram, self.page, *(each.fd for each in (*self.kicks, *self.calls))):
            os.close(fd)


def eventfd() -> Eventfd:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    id_ = eventfd_id(os.getpid(), fd)
    assert id_ is not None
    return Eventfd(id=id_, fd=fd)


@contextmanager
def device(*, rings: int = 2, vectors: int = 3, id_: int = OWN_ID) -> Iterator[Device]:
    before = open_files(os.getpid())
    with TemporaryDirectory(prefix="vc", dir="/tmp") as name:
        made = Device(Path(name) / "lan0.2.0", rings=rings, vectors=vectors, id_=id_)
        try:
            yield made
        finally:
            made.close()
        assert list(Path(name).iterdir()) == []
    assert open_files(os.getpid()) == before


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugged:
    """What a QEMU was told when its device was plugged: own interrupts, whom it can ring, and its connection."""

    connection: socket.socket
    own: Sequence[int]
    doorbells: dict[int, int]

    def ring_host(self) -> None:
        os.eventfd_write(self.doorbells[HOST_ID << 16], 1)


@asynccontextmanager
async def plugged(device: Device) -> AsyncIterator[Plugged]:
    """Be the QEMU: read the greeting of an attached device."""
    rings = len(device.kicks)
    with client(device.path) as connection:
        said = await greeted(connection, 2 + rings + 1 + 1 + 1 + rings)
        fds = [fd for _, fd in said if fd is not None]
        doorbells: dict[int, int] = {}
        for id_, fd in said[2 : 3 + rings]:
            assert fd is not None
            doorbells[id_ << 16 | sum(key >> 16 == id_ for key in doorbells)] = fd
        try:
            yield Plugged(connection=connection, own=fds[rings + 2 :], doorbells=doorbells)
        finally:
            for fd in fds:
                os.close(fd)


async def became(probe: object, what: str) -> None:
    async def yet() -> bool | None:
        assert callable(probe)
        return bool(probe()) or None

    await until(yet, timeout=5, what=what, every=0.001)


async def test_the_device_is_told_of_calls_and_host_then_of_the_ram_then_of_its_kicks() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        with client(made.path) as connection:
            said = await greeted(connection, 9)
            assert [number for number, _ in said] == [0, OWN_ID, 3, 3, HOST_ID, REGION, OWN_ID, OWN_ID, OWN_ID]
            fds = [fd for _, fd in said if fd is not None]
            assert [eventfd_id(os.getpid(), fd) for fd in fds[:2]] == [call.id for call in made.calls]
            assert os.fstat(fds[3]).st_ino == os.fstat(made.ram).st_ino
            assert [eventfd_id(os.getpid(), fd) for fd in fds[5:]] == [kick.id for kick in made.kicks]
            (end,) = made.datapath.as_json()["ends"]
            assert end["eventfds"] == [eventfd_id(os.getpid(), fd) for fd in fds[4:]]
            assert (end["id"], end["connected"], end["path"]) == (OWN_ID, True, str(made.path))
            for fd in fds:
                os.close(fd)
        await became(lambda: made.heard == ["join", "leave"], "join and leave")


async def test_the_slot_says_all_that_the_driver_works_with() -> None:
    with device() as made:
        made.answer(1, 99)  # of a device that was there before
        made.datapath.attach(made.vrings)
        slot = made.slot()
        expected = {
            "state": 1,
            "ivposition": OWN_ID,
            "generation": 7,
            "kind": 2,
            "role": 0,
            "peer": 0,
            "host": HOST_ID,
            "queue_pairs": 1,
            "mtu": 1500,
            "mac": b"\2abcde",
            "name": b"lan0".ljust(16, b"\0"),
            "region_size": 16 * MIB,
            "data_offset": 0,
            "ring_size": 0,
            "features": 0x123,
            "sequence": 0,
            "region_count": 1,
            "confirmed": 0,
            "answer": bytes(64),
        }
        assert expected.items() <= slot.items()
        assert isinstance(slot["regions"], bytes)
        assert PEER_REGION.unpack(slot["regions"]) == {"address": 0, "size": 16 * MIB, "offset": 0}
        assert made.rings()[1] == {
            "desc": 16384,
            "avail": 16384 + 4096,
            "used": 16384 + 8192,
            "doorbell": 3 << 16 | 1,
            "size": 256,
            "vector": 2,
        }


async def test_the_drivers_doorbells_are_the_front_ends_calls_and_its_kicks_the_devices_interrupts() -> None:
    with device(rings=4, vectors=5, id_=9) as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            for number, ring in enumerate(made.rings()):
                assert isinstance(ring["doorbell"], int)
                os.eventfd_write(qemu.doorbells[ring["doorbell"]], 1)
                assert [count_of(call.fd) for call in made.calls] == [int(number == other) for other in range(4)]
                os.eventfd_write(made.kicks[number].fd, 1)
                assert isinstance(ring["vector"], int)
                assert count_of(qemu.own[ring["vector"]]) == 1


async def test_an_answer_is_taken_in_confirmed_and_told_and_a_wrong_one_is_not() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            for state, id_ in ((1, 77), (3, OWN_ID), (0, OWN_ID)):
                made.answer(state, 5, id_=id_)
                qemu.ring_host()
                await pause(0.02)
            assert made.answers == []
            made.answer(1, 6, features=0x23)
            qemu.ring_host()
            await became(lambda: made.answers, "an answer")
            assert made.answers == [Answer(state=1, ivposition=OWN_ID, sequence=0, request=6, features=0x23)]
            assert made.slot()["confirmed"] == 6
            await rung(qemu.own[0])
            qemu.ring_host()
            await pause(0.02)
            assert len(made.answers) == 1, "it is the same one"


async def test_a_driver_that_answers_without_an_end_is_heard_so_often_a_second() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            for request in range(1, MOST_ACKS + 20):
                made.answer(1, request)
                qemu.ring_host()
                await pause(0.001)
            await became(lambda: made.answers[-1].request == MOST_ACKS + 19, "the last answer, a second later")
            assert len(made.answers) <= MOST_ACKS + 1


async def test_off_waits_for_the_driver_that_works_the_rings() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            made.answer(1, 1)
            qemu.ring_host()
            await became(lambda: made.answers, "an answer")
            await rung(qemu.own[0])
            both = [asyncio.create_task(made.datapath.off()) for _ in range(2)]
            await became(lambda: count_of(qemu.own[0]), "the control interrupt")
            assert made.slot()["state"] == 2
            made.answer(1, 2)  # it was just about to say so
            qemu.ring_host()
            await became(lambda: len(made.answers) == 2, "the second answer")
            assert made.datapath.is_on
            assert not any(task.done() for task in both)
            made.answer(2, 3)
            qemu.ring_host()
            assert [await task for task in both] == [True, True]
            assert not made.datapath.is_on
            assert made.slot()["confirmed"] == 3
            count_of(qemu.own[0])  # nothing that was asked for before `off` ended is still to come
            made.answer(2, 4)
            qemu.ring_host()
            await became(lambda: made.slot()["confirmed"] == 4, "what comes late is confirmed")
            await made.settled()
            assert count_of(qemu.own[0]) == 0, "and its device, which may be unplugged by now, not rung"


@pytest.mark.parametrize("answer", [None, (2, OWN_ID), (1, 99)], ids=["none", "off", "another device's"])
async def test_off_does_not_wait_where_no_driver_works_the_rings(answer: tuple[int, int] | None) -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made):
            if answer is not None:
                made.answer(answer[0], 1, id_=answer[1])
            async with asyncio.timeout(0.5):
                assert await made.datapath.off()
            assert made.slot()["state"] == 2
    with device() as made:
        made.datapath.attach(made.vrings)
        made.answer(1, 1)
        async with asyncio.timeout(0.5):
            assert await made.datapath.off(), "no QEMU has it"


async def test_off_ends_with_the_devices_qemu_or_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            made.answer(1, 1)
            off = asyncio.create_task(made.datapath.off())
            await became(lambda: count_of(qemu.own[0]), "the control interrupt")
            qemu.connection.close()
            assert await off
    monkeypatch.setattr(ivshmem_datapath, "ACK_SECONDS", 0.05)
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made):
            made.answer(1, 1)
            assert not await made.datapath.off(), "it is silent"
            assert not made.datapath.is_on
            assert not await made.datapath.off()
    with device() as made:
        assert await made.datapath.off(), "it was never attached"


async def test_a_call_that_changes_is_a_new_peer_and_one_that_comes_back_is_not() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        masked = eventfd()
        async with plugged(made) as qemu:
            made.datapath.change_call(1, masked)
            ((id_, fd),) = await greeted(qemu.connection, 1)
            assert (id_, made.rings()[1]["doorbell"], made.slot()["sequence"]) == (4, 4 << 16, 1)
            assert made.rings()[0]["doorbell"] == 3 << 16
            assert fd is not None
            assert eventfd_id(os.getpid(), fd) == masked.id
            os.close(fd)
            await rung(qemu.own[0])
            await rung(masked.fd)  # what was rung at the old one meanwhile
            made.answer(1, 1, sequence=1)
            qemu.ring_host()
            await became(lambda: count_of(masked.fd), "once more, when the driver knows")
            made.datapath.change_call(1, made.calls[1])
            assert (made.rings()[1]["doorbell"], made.slot()["sequence"]) == (3 << 16 | 1, 2)
            made.datapath.change_call(1, masked)
            assert (made.rings()[1]["doorbell"], made.slot()["sequence"]) == (4 << 16, 3)
            made.answer(2, 2)
            await made.datapath.off()
            made.datapath.change_call(1, made.calls[1])
            assert made.slot()["sequence"] == 3, "it has let go"
            with pytest.raises(BlockingIOError):
                qemu.connection.recv(8)
        os.close(masked.fd)


async def test_a_call_that_changed_before_the_device_came_is_in_its_greeting() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        later = eventfd()
        made.datapath.change_call(0, later)
        with client(made.path) as connection:
            said = await greeted(connection, 10)
            assert [number for number, _ in said] == [0, OWN_ID, 3, 3, HOST_ID, 4, REGION, OWN_ID, OWN_ID, OWN_ID]
            for _, fd in said:
                if fd is not None:
                    os.close(fd)
        os.close(later.fd)


async def test_a_device_that_cannot_be_served_leaves_nothing_behind() -> None:
    with device() as made:
        made.path.mkdir()
        with pytest.raises(OSError, match="in use"):
            made.datapath.attach(made.vrings)
        made.path.rmdir()
        assert made.slot()["state"] == 0


async def test_two_rings_may_have_one_call() -> None:
    with device() as made:
        spare, made.calls[1] = made.calls[1], made.calls[0]
        made.datapath.attach(made.vrings)
        assert {ring["doorbell"] for ring in made.rings()} == {3 << 16}
        made.calls[1] = spare


async def test_a_call_that_blocks_is_told_and_the_driver_of_the_other_guest_is_heard_and_rung() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        bad = eventfd()
        async with plugged(made) as qemu:
            block(bad.fd)
            made.datapath.change_call(1, bad)
            made.datapath.change_call(1, made.calls[1])
            await rung(qemu.own[0])
            await became(lambda: made.stuck, "the call that blocks")
            assert made.stuck == ["ring 1: its call eventfd blocks the writer"]
            made.answer(1, 1)
            qemu.ring_host()
            await became(lambda: made.answers, "an answer")
        os.close(bad.fd)


async def test_a_device_whose_control_interrupt_blocks_is_told_and_has_not_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ivshmem_datapath, "ACK_SECONDS", 0.5)
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            made.answer(1, 1)
            block(qemu.own[0])
            assert not await made.datapath.off()
            await became(lambda: "stuck" in made.heard, "the device that is stuck")
            assert "leave" not in made.heard, "its QEMU has it still"


async def test_a_front_end_is_given_so_many_calls_and_no_more_descriptors() -> None:
    with device() as made:
        made.datapath.attach(made.vrings)
        async with plugged(made) as qemu:
            given = [eventfd() for _ in range(CALLS_OF_A_RING * 2 + 1)]
            for call in given[:-1]:
                made.datapath.change_call(0, call)
            before = open_files(os.getpid())
            with pytest.raises(OSError, match="it was given 16 others in this session"):
                made.datapath.change_call(0, given[-1])
            made.datapath.change_call(0, given[0])
            assert open_files(os.getpid()) == before
            for _, fd in await greeted(qemu.connection, len(given) - 1):
                os.close(fd if fd is not None else -1)
            for call in given:
                os.close(call.fd)
