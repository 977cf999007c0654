"""Vrings as a data path is shown them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from vpctl.broker.vhost_user.datapath import Eventfd, Vring, VringSet
from vpctl.process import memory_file


@pytest.fixture
def ram() -> Iterator[int]:
    fd = memory_file("ram")
    os.ftruncate(fd, 4096)
    yield fd
    os.close(fd)


def vring(**changes: int) -> Vring:
    given = {"desc": 0, "avail": 1024, "used": 2048, "size": 256, **changes}
    return Vring(**given, kick=Eventfd(id=1, fd=10), call=Eventfd(id=2, fd=11))


@pytest.mark.parametrize(("available", "used", "waiting"), [(0, 0, 0), (7, 3, 4), (2, 0xFFFE, 4)])
def test_chains_that_wait_are_counted_by_the_rings_memory(ram: int, available: int, used: int, waiting: int) -> None:
    os.pwrite(ram, struct.pack("<HH", 0, available), 1024)
    os.pwrite(ram, struct.pack("<HH", 0, used), 2048)
    assert vring().waiting(ram) == waiting


def test_two_vrings_are_the_same_if_only_their_calls_differ() -> None:
    one, other = vring(), vring()
    assert one == Vring(
        **{name: getattr(one, name) for name in ("desc", "avail", "used", "size", "kick")}, call=other.kick
    )
    assert one != vring(used=2050)
    assert VringSet(features=0, regions=(), rings=(one, other)).queue_pairs == 1
