"""Descriptors parked in a QEMU, so that none is found where it still listens to a device that is gone.

Under TCG a QEMU goes on waiting for the interrupts of an ivshmem-doorbell that was unplugged, by their descriptors'
numbers, which are closed: its main loop spins (7.2, 10.0), and would take whatever gets one of those numbers for an
interrupt of freed memory. An idle eventfd in each of those places ends that. It stays as long as the QEMU.

Until it is there, somebody else may get the number: an ssh connection into the guest is a descriptor of QEMU's, and
its first bytes crash a QEMU that takes them for an interrupt. A process is given the lowest number that is free. So a
device is plugged with some free numbers left below its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import Any

from vpctl import wait
from vpctl.errors import ReadyTimeoutError
from vpctl.process import eventfd_id, open_files
from vpctl.qmp.session import MOST_FDS, Session

ARRIVED_SECONDS = 1.0
"""For QEMU to take a device's eventfds in: they were sent before `device_add`, which reads all but these."""

MOST_AT_ONCE = 256
"""Descriptors that are sent to fill all lower numbers that are free; a QEMU has a few dozen."""


def leaves_handlers(accelerator: str) -> bool:
    """Whether a QEMU keeps waiting for an unplugged doorbell's interrupts.

    Under KVM the kernel takes them (irqfd) and forgets them with the device. QEMU 11.1 waits by io_uring, which keeps
    the file instead of its number and does not spin; but a host may refuse it io_uring.
    """
    return accelerator == "tcg"


async def find_interrupts(pid: int, served: Mapping[str, Any] | None, end: int) -> frozenset[int]:
    """Return the numbers of the descriptors by which a QEMU hears a device that was just plugged.

    They come to it after the device. None if the broker is another by now, or /proc does not tell.
    """
    ids = set(served["ends"][end]["eventfds"] if served is not None else ()) - {None}
    found: frozenset[int] = frozenset()

    async def all_there() -> bool | None:
        nonlocal found
        found = frozenset(number for number in open_files(pid) if eventfd_id(pid, number) in ids)
        return len(found) == len(ids) or None

    with contextlib.suppress(ReadyTimeoutError):
        await wait.until(all_there, timeout=ARRIVED_SECONDS, what="a device's eventfds", every=0.005)
    return found


def lowest_free(taken: Collection[int], count: int) -> frozenset[int]:
    """Return the numbers that a process's next descriptors will get."""
    return frozenset(islice((number for number in itertools.count() if number not in taken), count))


@asynccontextmanager
async def low_numbers_left_free(session: Session) -> AsyncIterator[None]:
    """Have what QEMU opens in the block get numbers that are above MOST_FDS free ones."""
    with _idle_eventfd() as fd:
        async with session.numbers_taken(fd, MOST_FDS):
            yield


async def park(session: Session, pid: int, numbers: Collection[int], *, name: str) -> int:
    """Put an idle eventfd at each of these numbers, now that the device is gone; return how many stay."""
    places = frozenset(numbers)
    sent: dict[int | None, str] = {}
    unknown = 0
    while (missing := places - (taken := open_files(pid))) and len(sent) + unknown < MOST_AT_ONCE:
        gaps = len(set(range(min(missing))) - taken)
        above = gaps if gaps <= MOST_FDS else 0
        id_, fdname = await _send(session, f"{name}.parked{len(sent) + unknown}", above)
        unknown += id_ is None
        sent |= {id_: fdname} if id_ is not None else {}
    # Those that only filled a gap below, as the lowest free number, are given back.
    kept = unknown
    for number in open_files(pid):
        if (given := sent.get(eventfd_id(pid, number))) is None:
            continue
        if number in places:
            kept += 1
        else:
            await session.execute("closefd", {"fdname": given})
    return kept


async def _send(session: Session, name: str, above: int) -> tuple[int | None, str]:
    """Send an idle eventfd; return the kernel's id of it, which stays while QEMU has it, and its name."""
    with _idle_eventfd() as fd:
        await session.send_fd(name, fd, above=above)
        return eventfd_id(os.getpid(), fd), name


@contextmanager
def _idle_eventfd() -> Iterator[int]:
    """Have an eventfd that nobody signals, to send copies of."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)
