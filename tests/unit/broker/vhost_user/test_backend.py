"""The back-end's control plane, with a played QEMU and a data path that remembers: every order, death anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import vhost_user_messages
from tests.fakes.vhost_user_frontend import GIB, MIB, USER, Dialect
from tests.unit.broker.datapaths import Remembers
from tests.unit.broker.vhost_user.pair import (
    DIALECTS,
    NEW,
    every_dialect,
    leaves_no_descriptor,
    pair,
)
from vpctl.broker.budget import SECOND
from vpctl.broker.control_page import Answer
from vpctl.broker.vhost_user import message as vhost_user
from vpctl.broker.vhost_user.backend import (
    MOST_MESSAGES,
    MOST_REFUSALS,
    MOST_SESSIONS,
    PARTLY_QUIET_SECONDS,
)
from vpctl.broker.vhost_user.message import Feature, Request, RingState
from vpctl.broker.vhost_user.negotiation import OFFER, PROTOCOL
from vpctl.errors import UsageError
from vpctl.process import eventfd_id
from vpctl.wait import pause, until

# Section: what QEMUs do


@every_dialect
async def test_a_stop_waits_for_the_carrier_and_answers_what_was_used(dialect: Dialect) -> None:
    async with pair(dialect) as both:
        await both.ready()
        datapath = Remembers(obeys=False)
        both.back.attach(1, datapath)
        stop = asyncio.create_task(both.front.stop())
        await datapath.was_asked.wait()
        both.front.set_used(0, 17)
        both.front.set_used(1, 65535)
        await asyncio.wait([stop], timeout=0.05)
        assert not stop.done(), "the guest may still work the rings"
        assert both.back.as_json()["state"] == "stopping"
        with pytest.raises(UsageError, match=r"session 1 of `lan0\.g1` is over: the present one is None"):
            both.back.attach(1, Remembers())
        datapath.lets_go.set()
        assert await stop == [17, 65535]
        stopped = await both.told.exactly("stopped")
        assert (stopped["session"], stopped["reason"], stopped["released"]) == (1, "ring 0 was stopped", True)
        await both.front.start(base=17)
        assert (await both.told.exactly("ready"))["session"] == 2
        again = Remembers()
        both.back.attach(2, again)
        assert datapath.is_detached, "the next one takes its place"


@every_dialect
async def test_a_front_end_that_comes_back_begins_anew(dialect: Dialect) -> None:
    async with pair(dialect, queue_pairs=2) as both:
        for session in (1, 2, 3):
            await both.front.up()
            assert (await both.told.exactly("connected", "ready"))["session"] == session
            datapath = Remembers()
            both.back.attach(session, datapath)
            both.front.hang_up()
            gone = await both.told.exactly("gone")
            assert (gone["reason"], gone["released"]) == ("the front-end has hung up", True)
            assert datapath.was_asked.is_set()
            assert both.back.as_json()["session"] is None


async def test_a_reset_stops_the_rings_and_a_new_start_is_a_new_session() -> None:
    for request in (Request.RESET_OWNER, Request.RESET_DEVICE):
        async with pair() as both:
            await both.ready()
            datapath = Remembers()
            both.back.attach(1, datapath)
            await both.front.say(request)
            stopped = await both.told.exactly("stopped")
            assert stopped["reason"] == f"{request.name} has changed it"
            assert datapath.was_asked.is_set()
            await both.front.enable(1)
            await both.front.start()
            assert (await both.told.exactly("ready"))["session"] == 2


async def test_pairs_that_the_guest_leaves_disabled_do_not_count_and_more_of_them_are_a_new_session() -> None:
    async with pair(NEW, queue_pairs=2) as both:
        await both.front.connect()
        await both.front.greet()
        await both.front.enable(1)
        begin = asyncio.get_running_loop().time()
        await both.front.start()
        assert (await both.told.exactly("connected", "ready"))["queue_pairs"] == 1
        assert asyncio.get_running_loop().time() - begin >= PARTLY_QUIET_SECONDS, "more may be enabled in a moment"
        datapath = Remembers()
        both.back.attach(1, datapath)
        await both.front.enable(2)
        ready = await both.told.exactly("stopped", "ready")
        assert (ready["session"], ready["queue_pairs"]) == (2, 2)
        assert datapath.was_asked.is_set()
        await both.front.enable(1)
        assert (await both.told.exactly("stopped", "ready"))["queue_pairs"] == 1
        await both.front.enable(0)
        await both.told.exactly("stopped")
        assert both.back.as_json()["session"] is None


@every_dialect
async def test_a_call_that_changes_at_run_time_is_no_new_session(dialect: Dialect) -> None:
    async with pair(dialect) as both:
        await both.ready()
        datapath = Remembers()
        both.back.attach(1, datapath)
        masked = eventfd_id(os.getpid(), both.front.masked[1])
        real = eventfd_id(os.getpid(), both.front.calls[1])
        await both.front.say_fd(Request.SET_VRING_CALL, 1, both.front.masked[1])
        await both.front.say_fd(Request.SET_VRING_CALL, 1, both.front.masked[1])
        await both.front.say_fd(Request.SET_VRING_CALL, 1, both.front.calls[1])
        await both.front.number(Request.GET_FEATURES)
        assert datapath.calls == [(1, masked), (1, real)]
        await both.front.say_fd(Request.SET_VRING_CALL, 0, both.front.masked[0])
        await both.front.number(Request.GET_FEATURES)
        assert await both.back.detach()
        later = Remembers("lan0.g3")
        both.back.attach(1, later)
        assert later.vrings is not None
        assert later.vrings.rings[0].call.id == eventfd_id(os.getpid(), both.front.masked[0])
        assert both.told.events == []


async def test_rings_without_a_calm_moment_are_not_taken_to_work_yet() -> None:
    async with pair() as both:
        await both.front.up()
        for _ in range(30):
            await both.front.say_fd(Request.SET_VRING_CALL, 0, both.front.calls[0])
            await asyncio.wait([asyncio.create_task(both.front.number(Request.GET_FEATURES))], timeout=1)
        await both.told.exactly("connected", "ready")


def test_a_ring_that_its_front_end_polls_works_and_its_call_reaches_nobody() -> None:
    polls = vhost_user_messages.number_payload(0x101)

    async def go() -> None:
        async with pair() as both:
            await both.ready()
            datapath = Remembers()
            both.back.attach(1, datapath)
            for _ in range(2):
                await both.front.say(Request.SET_VRING_CALL, polls)
            await both.front.say_fd(Request.SET_VRING_CALL, 1, both.front.calls[1])
            await both.front.say(Request.SET_VRING_CALL, polls)
            await both.front.number(Request.GET_FEATURES)
            ids = [id_ for ring, id_ in datapath.calls if ring == 1]
            assert ids[1] == eventfd_id(os.getpid(), both.front.calls[1])
            assert ids[0] == ids[2], "it is one for all"
            assert ids[0] not in [eventfd_id(os.getpid(), fd) for fd in both.front.calls]
            assert both.told.events == [], "the session goes on"

    leaves_no_descriptor(go)


async def test_rings_that_are_polled_from_their_start_work() -> None:
    async with pair() as both:
        await both.front.connect()
        await both.front.greet()
        await both.front.enable(1)
        await both.front.start()
        for ring in (0, 1):
            await both.front.say(Request.SET_VRING_CALL, vhost_user_messages.number_payload(0x100 | ring))
        await both.told.exactly("connected", "ready")


# Section: memory


# Section: what is refused


async def test_a_wrong_message_is_refused_to_whoever_asks_and_ends_the_others_connection() -> None:
    number = vhost_user_messages.number_payload
    state = vhost_user_messages.state_payload
    wrong = [
        (Request.SET_FEATURES, number(1 << 26), "SET_FEATURES has 0x4000000, which was not offered"),
        (Request.SET_PROTOCOL_FEATURES, number(1 << 16), "SET_PROTOCOL_FEATURES has 0x10000, which was not offered"),
        (Request.SET_VRING_NUM, state(RingState(index=0, value=0)), "SET_VRING_NUM: 0 is no size of a ring"),
        (Request.SET_VRING_NUM, state(RingState(index=0, value=65536)), "SET_VRING_NUM: 65536 is no size of a ring"),
        (Request.SET_VRING_NUM, state(RingState(index=0, value=1000)), "SET_VRING_NUM: 1000 is no size of a ring"),
        (Request.SET_VRING_ENABLE, state(RingState(index=0, value=2)), "SET_VRING_ENABLE: 2 is neither 0 nor 1"),
        (Request.SET_VRING_BASE, state(RingState(index=2, value=0)), "there is no ring 2 of 2"),
        (Request.SET_VRING_KICK, number(0x100), "SET_VRING_KICK wants the ring to be polled"),
        (Request.SET_VRING_ADDR, b"", "SET_VRING_ADDR has 0 bytes, not 40"),
        (Request.SET_LOG_BASE, bytes(16), "SET_LOG_BASE is not understood"),
        (Request.SET_STATUS, number(0), "SET_STATUS is not understood"),
    ]
    for request, payload, reason in wrong:
        async with pair() as both:
            await both.ready()
            assert await both.front.insist(request, payload) == 1
            refused = await both.told.exactly("refused")
            assert (refused["reason"], refused["closed"]) == (reason, False)
            assert both.back.as_json()["session"] == 1, "nothing has changed"
            await both.front.say(request, payload)
            refused = (await both.told.exactly("refused", "gone")) and both.back.as_json()["refused"]
            assert refused == reason
            with pytest.raises(EOFError):
                await both.front.reply()


async def test_a_question_that_cannot_be_answered_ends_the_connection_though_it_asks_to_be_told() -> None:
    async with pair() as both:
        await both.ready()
        payload = vhost_user_messages.state_payload(RingState(index=9, value=0))
        await both.front.say(Request.GET_VRING_BASE, payload, need_reply=True)
        gone = await both.told.exactly("refused", "gone")
        assert gone["reason"] == "there is no ring 9 of 2"


async def test_nobody_is_told_how_it_went_before_that_was_agreed_on() -> None:
    async with pair() as both:
        await both.front.connect()
        await both.front.say(Request.SET_OWNER, need_reply=True)
        assert await both.front.number(Request.GET_PROTOCOL_FEATURES) == int(both.back.spec.protocol)


async def test_a_second_front_end_is_sent_away_at_once() -> None:
    async with pair() as both:
        await both.ready()
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(both.front.path))
            refused = await both.told.exactly("refused")
            assert refused["reason"] == "a second front-end, while the first is connected"
            assert second.recv(1) == b""
        assert await both.front.stop() == [0, 0]


async def test_a_front_end_that_reads_no_replies_holds_nobody_up() -> None:
    async with pair() as both, pair() as other:
        await both.front.connect()
        asked = vhost_user_messages.request(Request.GET_FEATURES)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await both.front.send(asked * 1000)
        await other.ready()


async def test_a_front_end_that_writes_without_pause_leaves_the_loop_to_others() -> None:
    async with pair() as both:
        one = vhost_user_messages.request(
            Request.SET_VRING_NUM, vhost_user_messages.state_payload(RingState(index=0, value=256))
        )
        flood = asyncio.create_task(asyncio.to_thread(sent_without_pause, both.front.path, one * 64))
        turns, begin = 0, time.monotonic()
        while time.monotonic() - begin < 1.5:
            await pause(0.005)
            turns += 1
        assert turns > 30, "300 on a quiet host"
        assert 0 < both.back.as_json()["messages"] <= 3 * MOST_MESSAGES
        both.back.hang_up("enough")
        await flood


def sent_without_pause(path: Path, data: bytes) -> None:
    """Write until the connection ends; in a thread, so that it needs no turn of the loop's."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(data)


async def test_a_front_end_that_is_refused_again_and_again_is_hung_up_on() -> None:
    async with pair() as both:
        await both.ready()
        wrong = vhost_user_messages.state_payload(RingState(index=9, value=0))
        data = vhost_user_messages.request(Request.SET_VRING_NUM, wrong, need_reply=True)
        with contextlib.suppress(OSError):
            await both.front.send(data * (MOST_REFUSALS + 100))

        async def gone() -> bool | None:
            return any(each["what"] == "gone" for each in both.told.events) or None

        await until(gone, timeout=5, what="gone", every=0.001)
        refused = [each for each in both.told.events if each["what"] == "refused"]
        assert len(refused) == MOST_REFUSALS + 1
        assert refused[-1]["reason"] == "there is no ring 9 of 2 (and 8 messages before it within a second)"


async def test_rings_that_start_and_stop_without_an_end_begin_so_many_sessions_a_second() -> None:
    async with pair() as both:
        await both.ready()
        begin = time.monotonic()
        for _ in range(MOST_SESSIONS * 2):
            await both.front.enable(0)
            await both.front.enable(1)
            await pause(0.01)
        seconds = 1 + int(time.monotonic() - begin)
        sessions = [each for each in both.told.events if each["what"] == "ready"]
        assert 0 < len(sessions) <= MOST_SESSIONS * (seconds + 1)
        await pause(SECOND)
        assert both.back.as_json()["session"] is not None, "what was too often is done a second later"


async def test_a_front_end_that_is_hung_up_on_is_told_why_and_another_is_served() -> None:
    async with pair() as both:
        await both.ready()
        both.back.hang_up("ring 0: its call eventfd blocks the writer")
        gone = await both.told.exactly("refused", "gone")
        assert gone["reason"] == "ring 0: its call eventfd blocks the writer"
        await both.ready()


def test_more_descriptors_than_a_message_can_have_end_the_connection() -> None:
    async def go() -> None:
        async with pair() as both:
            await both.front.connect()
            await both.front.say(Request.GET_FEATURES, fds=both.front.kicks[:1] * 9)
            gone = await both.told.exactly("connected", "refused", "gone")
            assert gone["reason"] == "more than 8 descriptors with one message"

    leaves_no_descriptor(go)


# Section: the data path


async def test_a_session_has_one_carrier_at_a_time_and_ends_it_with_itself() -> None:
    async with pair() as both:
        with pytest.raises(UsageError, match=r"session 1 of .* is over"):
            both.back.attach(1, Remembers())
        await both.ready()
        first = Remembers(obeys=False)
        both.back.attach(1, first)
        with pytest.raises(UsageError, match=r"`lan0\.g2` is attached to `lan0\.g1` already"):
            both.back.attach(1, Remembers())
        ending = asyncio.create_task(both.back.detach())
        await first.was_asked.wait()
        with pytest.raises(UsageError, match="is attached"):
            both.back.attach(1, Remembers())  # it has not let go yet
        first.lets_go.set()
        assert await ending
        assert first.is_detached
        assert await both.back.detach(), "there is none"
        second = Remembers("lan0.g3")
        both.back.attach(1, second)  # the front-end has noticed nothing
        assert both.told.events == []
        assert both.back.as_json()["attached"] == "lan0.g3"


async def test_what_the_other_guest_says_is_told_and_bounded() -> None:
    async with pair(features=Feature.CSUM | Feature.EVENT_IDX) as both:
        await both.ready()
        both.back.attach(1, Remembers())
        both.back.hear_answer(Answer(state=1, ivposition=6, sequence=0, request=1, features=(1 << 64) - 1))
        answer = await both.told.exactly("answer")
        expected = {"state": "on", "features": Feature.CSUM | Feature.EVENT_IDX, "request": 1}
        assert expected.items() <= answer.items()
        assert both.back.as_json()["answer"] == expected
        both.back.hear_answer(Answer(state=2, ivposition=6, sequence=0, request=2, features=0))
        assert (await both.told.exactly("answer"))["state"] == "off"


# Section: anything at any time


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.sampled_from(DIALECTS), st.booleans())
def test_a_front_end_that_dies_at_any_byte_leaves_nothing(bytes_: int, dialect: Dialect, attached: bool) -> None:
    async def go() -> None:
        async with pair(dialect, queue_pairs=2) as both:
            both.front.allowance = bytes_
            try:
                await both.front.up()
                await both.front.stop()
            except (EOFError, TimeoutError):
                pass
            if attached and both.back.as_json()["session"] is not None:
                both.back.attach(1, Remembers())
            both.front.hang_up()

            async def gone() -> bool | None:
                return any(each["what"] == "gone" for each in both.told.events) or None

            await until(gone, timeout=5, what="gone", every=0.001)
            both.told.events.clear()
            both.front.allowance = None
            await both.ready()

    leaves_no_descriptor(go)


KINDS = st.sampled_from(["eventfd", "memory", "ram", "socket"])
REQUESTS = st.sampled_from([int(request) for request in Request]) | st.integers(0, 300)
PAYLOADS = (
    st.binary(max_size=80)
    | st.builds(
        lambda index, value: struct.pack("<II", index, value),
        st.integers(0, 5),
        st.sampled_from([0, 1, 2, 256, 1024, 65536]),
    )
    | st.builds(
        lambda number: struct.pack("<Q", number), st.sampled_from([0, 1, 2, 3, 0x100, 0x101, 0x8009, int(OFFER)])
    )
    | st.builds(
        lambda index, at: struct.pack("<IIQQQQ", index, 0, at, at ^ 32768, at ^ 16384, 0),
        st.integers(0, 5),
        st.sampled_from([0, USER, USER + 4096, USER + 256 * MIB, (1 << 64) - 1]),
    )
    | st.builds(
        lambda address, size, user, offset: struct.pack("<IIQQQQ", 1, 0, address, size, user, offset),
        st.sampled_from([0, 4096, 4 * GIB]),
        st.sampled_from([0, 4096, 256 * MIB, 1 << 63]),
        st.sampled_from([0, USER, (1 << 64) - 4096]),
        st.sampled_from([0, 4096, 1 << 63]),
    )
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(REQUESTS, st.sampled_from([1, 9, 9, 5, 2]), PAYLOADS, st.lists(KINDS, max_size=10)), max_size=12
    ),
    st.booleans(),
    st.binary(max_size=20),
)
def test_whatever_is_said_in_whatever_order_the_back_end_lives_and_keeps_no_descriptor(
    messages: list[tuple[int, int, bytes, list[str]]], started: bool, rest: bytes
) -> None:
    async def go() -> None:
        async with pair() as both:
            if started:
                await both.ready()
                both.back.attach(1, Remembers())
            else:
                await both.front.connect()
                await both.front.say(Request.SET_PROTOCOL_FEATURES, vhost_user_messages.number_payload(int(PROTOCOL)))
            try:
                for request, flags, payload, kinds in messages:
                    with made(kinds, both.front.ram) as fds:
                        data = vhost_user.HEADER.pack(request, flags, len(payload)) + payload
                        await both.front.send(data, fds)
                await both.front.send(rest)
            except OSError:
                pass  # it was hung up on
            both.front.hang_up()

            async def gone() -> bool | None:
                return any(each["what"] == "gone" for each in both.told.events) or None

            await until(gone, timeout=5, what="gone", every=0.001)
            both.told.events.clear()
            await both.ready()  # with the next, all is well

    leaves_no_descriptor(go)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_end_the_back_end_or_what_comes_next(pieces: list[bytes]) -> None:
    async def go() -> None:
        async with pair() as both:
            await both.front.connect()
            with contextlib.suppress(OSError):
                for piece in pieces:
                    await both.front.send(piece)
            both.front.hang_up()

            async def gone() -> bool | None:
                return any(each["what"] == "gone" for each in both.told.events) or None

            await until(gone, timeout=5, what="gone", every=0.001)
            both.told.events.clear()
            await both.ready()

    leaves_no_descriptor(go)


class made:  # noqa: N801 - a context manager
    """Descriptors of these kinds, for as long as the block lasts."""

    def __init__(self, kinds: list[str], ram: int) -> None:
        self._fds = [self._open(kind, ram) for kind in kinds]

    @staticmethod
    def _open(kind: str, ram: int) -> int:
        match kind:
            case "eventfd":
                fd = os.eventfd(0, os.EFD_CLOEXEC)
                os.eventfd_write(fd, (1 << 64) - 2)  # whoever writes to it once more, waits
                return fd
            case "memory":
                return os.memfd_create("x")
            case "ram":
                return os.dup(ram)
            case _:
                return socket.socket(socket.AF_UNIX).detach()

    def __enter__(self) -> list[int]:
        return self._fds

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def test_closing_at_any_point_closes_everything() -> None:
    async def early() -> None:
        async with pair():
            pass

    async def late() -> None:
        async with pair() as both:
            await both.ready()
            both.back.attach(1, Remembers())

    async def before_its_task_runs() -> None:
        async with pair() as both:
            await both.front.connect()
            assert both.back._listener is not None
            both.back._listener.accept()  # as the loop does, which has had no time yet
            both.back.close()

    async def while_it_waits() -> None:
        async with pair() as both:
            await both.ready()
            datapath = Remembers(obeys=False)
            both.back.attach(1, datapath)
            stop = asyncio.create_task(both.front.stop())
            await datapath.was_asked.wait()
            stop.cancel()

    for go in (early, late, before_its_task_runs, while_it_waits):
        leaves_no_descriptor(go)
