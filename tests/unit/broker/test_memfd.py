"""Memory that guests share: its size is final, and it outlives whoever made it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from vpctl.broker.memfd import Memfds, inherited_path, placeholder
from vpctl.errors import UsageError

PAGE = 4096


@pytest.fixture
def memfds() -> Iterator[Memfds]:
    made = Memfds()
    yield made
    made.close()


def test_nobody_can_change_the_size_of_a_memory(memfds: Memfds) -> None:
    assert memfds.create("region/lan0", 2 * PAGE)
    fd = os.open(inherited_path(memfds.fd("region/lan0")), os.O_RDWR)
    for size in (0, PAGE, 4 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)
    assert memfds.names() == {"region/lan0": 2 * PAGE}


def test_a_memory_is_made_once_and_stays_as_it_is(memfds: Memfds) -> None:
    assert memfds.create("m", PAGE)
    memfds.write("m", [(8, b"\1\2")])
    assert not memfds.create("m", PAGE)
    assert memfds.read("m", 7, 4) == b"\x00\x01\x02\x00"
    with pytest.raises(UsageError, match="`m` has 4096 bytes, not 8192"):
        memfds.create("m", 2 * PAGE)


@pytest.mark.parametrize("size", [0, -PAGE, 1, 2048, 3 * PAGE, (1 << 24) + PAGE, 1 << 63])
def test_a_size_that_would_abort_a_qemu_is_refused(memfds: Memfds, size: int) -> None:
    with pytest.raises(UsageError, match="no power of two"):
        memfds.create("m", size)


def test_a_cleared_memory_is_zero_and_takes_no_room(memfds: Memfds) -> None:
    memfds.create("m", 1 << 20)
    memfds.write("m", [(0, b"\xff" * PAGE), ((1 << 20) - 1, b"\xff")])
    assert os.fstat(memfds.fd("m")).st_blocks > 0
    memfds.clear("m")
    assert memfds.read("m", 0, PAGE) == bytes(PAGE)
    assert memfds.read("m", (1 << 20) - 1, 10) == b"\0"
    memfds.clear("m")
    assert os.fstat(memfds.fd("m")).st_size == 1 << 20


@pytest.mark.parametrize("part", [(-1, b"0"), (PAGE, b"0"), (PAGE - 1, b"00"), (1 << 62, b"0")])
def test_nothing_is_written_outside_of_a_memory(memfds: Memfds, part: tuple[int, bytes]) -> None:
    memfds.create("m", PAGE)
    with pytest.raises(UsageError):
        memfds.write("m", [part])
    assert memfds.read("m", 0, PAGE) == bytes(PAGE)


def test_a_name_that_nobody_gave_is_an_error(memfds: Memfds) -> None:
    for use in (memfds.fd, memfds.clear):
        with pytest.raises(UsageError, match="no memory named `m`"):
            use("m")


def test_what_a_broker_has_left_in_a_process_is_found_again_with_its_contents(memfds: Memfds) -> None:
    memfds.create("control/vm1", PAGE)
    memfds.write("control/vm1", [(0, bytes.fromhex("0badcafe"))])
    other = os.memfd_create("control/vm2")  # not of our making
    fds = [memfds.fd("control/vm1"), other]
    with subprocess.Popen(["sleep", "1000"], pass_fds=fds) as process:
        os.close(other)
        memfds.close()
        found = Memfds()
        found.adopt(process.pid)
        found.adopt(process.pid)
        process.kill()
    assert found.names() == {"control/vm1": PAGE}
    assert found.read("control/vm1", 0, 4).hex() == "0badcafe"
    found.adopt(process.pid)  # of a process that is gone
    found.close()


def test_a_placeholder_stands_for_one_memory_only() -> None:
    assert placeholder("control/vm1") not in placeholder("control/vm10")
