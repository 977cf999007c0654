"""The ivshmem server over real sockets: with clients that read all, slowly, or vanish at any point."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.unit.broker.ivshmem.serving import (
    IDS,
    assert_leaves_no_descriptor,
    client,
    count_of,
    greeted,
    rung,
    served,
)
from vpctl.broker.control_page import HOST_ID
from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.message import REGION
from vpctl.broker.ivshmem.pair_server import EndSpec, open_server
from vpctl.errors import UsageError
from vpctl.process import eventfd_id, open_files


async def test_a_device_whose_peer_died_is_told_of_the_next_one_and_of_no_end() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one:
            fds = [fd for _, fd in await greeted(one, 10) if fd is not None]
            with client(ends.paths[1]) as other:
                fds += [fd for _, fd in await greeted(other, 10) if fd is not None]
            await ends.told("leave", end=1)
            for generation in (2, 3):
                path, id_ = ends.paths[1].with_name(f"lan0.{generation}.1"), IDS[1] + 10 * generation
                ends.server.replace(1, EndSpec(name=f"lan0.g{generation}", path=str(path), id=id_, vectors=3))
                joined = await greeted(one, 3)
                assert [number for number, _ in joined] == [id_] * 3, "neither end is told that a peer has left"
                with client(path) as another:
                    said = await greeted(another, 10)
                    expected = [0, id_, *[IDS[0]] * 3, HOST_ID, REGION, *[id_] * 3]
                    assert [number for number, _ in said] == expected
                    mine = [fd for _, fd in said if fd is not None]
                    for vector in range(3):
                        os.eventfd_write(joined[vector][1] or -1, 1)
                        assert [count_of(fd) for fd in mine[5:]] == [int(v == vector) for v in range(3)]
                        os.eventfd_write(mine[vector], 1)
                        assert [count_of(fd) for fd in fds[5:8]] == [int(v == vector) for v in range(3)]
                assert ends.server.names == {"lan0.g1", f"lan0.g{generation}"}
                fds += [fd for _, fd in joined if fd is not None] + mine
            for fd in fds:
                os.close(fd)


async def test_nobody_is_served_anew_where_the_other_end_cannot_be_told() -> None:
    async with served() as ends:
        with pytest.raises(UsageError, match="nobody can be told"):
            ends.server.replace(1, EndSpec(name="lan0.g2", path=str(ends.paths[1]), id=99, vectors=3))
        assert ends.server.names == {"lan0.g1"}
        assert ends.paths[1].exists(), "what was served is served"


async def test_each_end_rings_the_other_and_the_host_and_has_the_same_region() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one, client(ends.paths[1]) as other:
            said = [await greeted(connection, 10) for connection in (one, other)]
            for end, messages in enumerate(said):
                own, peer = IDS[end], IDS[1 - end]
                expected = [0, own, peer, peer, peer, HOST_ID, REGION, own, own, own]
                assert [number for number, _ in messages] == expected
                assert [fd is None for _, fd in messages] == [True, True, *[False] * 8]
            fds = [[fd for _, fd in messages if fd is not None] for messages in said]
            for end in (0, 1):
                for vector in range(3):
                    os.eventfd_write(fds[end][vector], 1)  # the peer's interrupt, as this end knows it
                    assert [count_of(fd) for fd in fds[1 - end][5:]] == [int(v == vector) for v in range(3)]
                os.eventfd_write(fds[end][3], 1)
                await ends.told("ack", end=end)
            ends.server.end(0).ring()
            await rung(fds[0][5])
            assert [count_of(fd) for fd in (*fds[0][6:], *fds[1][5:])] == [0, 0, 0, 0, 0]
            regions = [os.fstat(each[4]) for each in fds]
            assert regions[0].st_ino == regions[1].st_ino
            known = ends.server.as_json()["ends"]
            for end in (0, 1):
                assert known[end]["eventfds"] == [eventfd_id(os.getpid(), fd) for fd in fds[end][5:]]
                assert known[end]["connected"]
            for fd in (*fds[0], *fds[1]):
                os.close(fd)
    assert [(entry["what"], entry["id"]) for entry in ends.events if entry["what"] != "ack"] == [
        *[("join", 6), ("join", 7), ("leave", 6), ("leave", 7)]
    ]


async def test_a_qemu_that_blocks_its_interrupt_stops_neither_the_loop_nor_the_other_device() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one, client(ends.paths[1]) as other:
            fds = [[fd for _, fd in await greeted(each, 10) if fd is not None] for each in (one, other)]
            os.set_blocking(fds[0][5], True)
            os.eventfd_write(fds[0][5], (1 << 64) - 2)
            ends.server.end(0).ring()
            ends.server.end(1).ring()
            await rung(fds[1][5])
            await ends.told("stuck", end=0)
            ends.server.end(0).ring()
            ends.server.end(1).ring()
            await rung(fds[1][5])
            for fd in (*fds[0], *fds[1]):
                os.close(fd)


def test_closing_twice_and_before_any_client_is_fine() -> None:
    async def go() -> None:
        async with served() as ends:
            ends.server.close()

    assert_leaves_no_descriptor(go)


async def test_a_place_where_nothing_can_be_bound_is_an_error_that_leaves_nothing() -> None:
    with TemporaryDirectory(prefix="vd", dir="/tmp") as name:
        good, bad = Path(name) / "a", Path(name) / "none" / "b"
        specs = [EndSpec(name="lan0.g1", path=str(path), id=id_, vectors=3) for path, id_ in ((good, 6), (bad, 7))]
        before = open_files(os.getpid())
        with pytest.raises(OSError, match="No such file"):
            open_server("lan0.g1", "region/lan0", 0, specs, lambda events: None, Bells())
        assert not good.exists()
        assert open_files(os.getpid()) == before


async def test_a_file_in_the_place_of_a_socket_is_not_removed() -> None:
    with TemporaryDirectory(prefix="vd", dir="/tmp") as name:
        file = Path(name) / "precious"
        file.write_text("data")
        specs = [EndSpec(name="lan0.g1", path=str(file), id=6, vectors=3)]
        with pytest.raises(OSError, match="in use"):
            open_server("lan0.g1", "region/lan0", 0, specs, lambda events: None, Bells())
        assert file.read_text() == "data"
