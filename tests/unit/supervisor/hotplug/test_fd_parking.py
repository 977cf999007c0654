"""Idle descriptors take the places of an unplugged device's interrupts, and no more of them than places."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.fakes.keeper import Keeper, keeping
from vpctl.process import eventfd_id, open_files
from vpctl.qmp.session import MOST_FDS, Session
from vpctl.supervisor.hotplug.fd_parking import (
    find_interrupts,
    leaves_handlers,
    low_numbers_left_free,
    lowest_free,
    park,
)
from vpctl.wait import pause


def as_session(keeper: Keeper) -> Session:
    return cast(Session, keeper)


def served(ids: Sequence[int | None]) -> dict[str, Any]:
    return {"ends": [{"eventfds": []}, {"eventfds": list(ids)}]}


@pytest.mark.parametrize("gaps", [0, 1, 7])
async def test_each_interrupts_place_is_taken_and_the_gaps_below_are_given_back(gaps: int) -> None:
    with keeping() as qemu:
        holes = [f"hole{number}" for number in range(gaps)]
        await qemu.eventfds(*holes)
        server, peer = "server", ["peer0", "peer1", "peer2", "host", "region"]
        own = ["own0", "own1", "own2"]
        await qemu.eventfds(server, *peer)
        heard = await find_interrupts(qemu.pid, served(await qemu.eventfds(*own)), 1)
        assert heard == {qemu.named[name] for name in own}
        for name in (*holes, server, *peer, *own):
            qemu.close(name)
        free = open_files(qemu.pid)
        assert await park(as_session(qemu), qemu.pid, heard, name="lan0.g1") == 3
        assert open_files(qemu.pid) - free == heard
        assert sorted(qemu.named.values()) == sorted(heard)


async def test_generation_after_generation_three_more_are_parked_and_none_is_lost() -> None:
    with keeping() as qemu:
        before = len(open_files(qemu.pid))
        for generation in range(1, 21):
            device = [
                f"{name}.g{generation}" for name in ("server", "peer", "host", "region", "own0", "own1", "own2")
            ]
            ids = await qemu.eventfds(*device)
            heard = await find_interrupts(qemu.pid, served(ids[-3:]), 1)
            for name in device:
                qemu.close(name)
            assert await park(as_session(qemu), qemu.pid, heard, name=f"lan0.g{generation}") == 3
            assert len(open_files(qemu.pid)) == before + 3 * generation


async def test_below_a_device_numbers_stay_free_and_connections_get_those_while_it_goes() -> None:
    with keeping() as qemu:
        session, free = as_session(qemu), lowest_free(open_files(qemu.pid), MOST_FDS)
        for generation in range(1, 4):
            device = [f"{name}.g{generation}" for name in ("server", "peer", "own0", "own1")]
            async with low_numbers_left_free(session):
                ids = await qemu.eventfds(*device)
            heard = await find_interrupts(qemu.pid, served(ids[-2:]), 1)
            assert min(heard) > max(free)
            for name in device:
                qemu.close(name)
            connections = [f"ssh{number}" for number in range(MOST_FDS)]
            await qemu.eventfds(*connections)
            assert {qemu.named[name] for name in connections} == free
            qemu.close("ssh7")
            assert await park(session, qemu.pid, heard, name=f"lan0.g{generation}") == 2
            for name in set(connections) - {"ssh7"}:
                qemu.close(name)
            assert not free & open_files(qemu.pid), "nothing that is parked is in the way of the next"


async def test_where_nobody_knows_the_interrupts_all_that_the_device_had_is_taken_through_any_gaps() -> None:
    with keeping() as qemu:
        assert await find_interrupts(qemu.pid, None, 0) == frozenset(), "their broker has died"
        assert await find_interrupts(qemu.pid, served([None, None]), 1) == frozenset(), "its kernel does not tell"
        await qemu.eventfds("other0", "other1", "server", "host", "own0", "own1")
        qemu.close("other0")  # by another device of that broker, whose connection is lost as well
        qemu.close("other1")
        before = open_files(qemu.pid)
        for name in ("server", "host", "own0", "own1"):
            qemu.close(name)
        gone = before - open_files(qemu.pid)
        assert len(gone) == 4
        assert await park(as_session(qemu), qemu.pid, gone, name="lan0.g1") == 4
        assert open_files(qemu.pid) == before


async def test_the_numbers_of_a_device_that_came_and_went_unseen_are_foretold() -> None:
    with keeping() as qemu:
        await qemu.eventfds("hole", "x")
        qemu.close("hole")
        before = open_files(qemu.pid)
        await qemu.eventfds("server", "host", "own0")
        assert {qemu.named[name] for name in ("server", "host", "own0")} == lowest_free(before, 3)


async def test_a_place_that_somebody_has_taken_needs_nothing() -> None:
    with keeping() as qemu:
        heard = await find_interrupts(qemu.pid, served(await qemu.eventfds("own0")), 1)
        qemu.close("own0")
        await qemu.eventfds("ssh")
        assert await park(as_session(qemu), qemu.pid, heard, name="lan0.g1") == 0


async def test_our_own_descriptors_are_closed_whatever_happens() -> None:
    with keeping() as qemu:
        before = open_files(os.getpid())
        await park(as_session(qemu), qemu.pid, lowest_free(open_files(qemu.pid), 2), name="lan0.g1")
        more = lowest_free(open_files(qemu.pid), 2)
        with pytest.raises(AssertionError):  # the names are taken
            await park(as_session(qemu), qemu.pid, more, name="lan0.g1")
        assert open_files(os.getpid()) == before


async def test_interrupts_that_come_a_little_after_the_device_are_waited_for() -> None:
    with keeping() as qemu:
        ids = await qemu.eventfds("own0", "own1")
        qemu.close("own1")
        fd = os.eventfd(0)
        later = [ids[0], eventfd_id(os.getpid(), fd)]

        async def arrives() -> None:
            await pause(0.05)
            await qemu.send_fd("own1", fd)

        async with asyncio.TaskGroup() as group:
            group.create_task(arrives())
            heard = await find_interrupts(qemu.pid, served(later), 1)
        os.close(fd)
        assert heard == {qemu.named["own0"], qemu.named["own1"]}


def test_only_tcg_needs_it() -> None:
    assert leaves_handlers("tcg")
    assert not leaves_handlers("kvm")
