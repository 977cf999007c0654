"""Plays a QEMU's virtio-net on `-netdev vhost-user`: the greeting, starts and stops of its rings, of 7.2 to 11.1."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import vhost_user_messages
from tests.fakes.ivshmem_host import sealed_memory
from vpctl.broker.vhost_user import message as vhost_user
from vpctl.broker.vhost_user.message import MemoryRegion, ProtocolFeature, Request, RingAddress, RingState

MIB = 1 << 20
GIB = 1 << 30
RING_SIZE = 1024
USER = 0x7F0000000000
"""Where this QEMU would have its guest's memory."""

_RINGS_AT = 16 * MIB
_RING_BYTES = 64 << 10


def split_memory(size: int) -> list[MemoryRegion]:
    """Return the regions of q35's RAM: what is beyond 2 GiB lies above 4 GiB."""
    low = size if size < 2816 * MIB else 2 * GIB
    regions = [MemoryRegion(address=0, size=low, user=USER, offset=0)]
    if size > low:
        regions.append(MemoryRegion(address=4 * GIB, size=size - low, user=USER + low, offset=low))
    return regions


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """What differs among QEMUs."""

    name: str
    slots: bool = True
    """It has its regions added one by one (CONFIGURE_MEM_SLOTS), else in a table."""
    call_first: bool = False
    """A ring's call comes before it is started; all QEMUs that were recorded do it afterwards."""
    enable_waits: bool = False
    """SET_VRING_ENABLE wants to be acknowledged (10.0 and newer)."""
    fds_wait: bool = False
    """So do kicks and calls (11.1)."""
    repeats_memory: bool = False
    """Each queue pair has the same memory added again (7.2)."""


class Frontend:
    """One device in one QEMU; it can connect again and again."""

    def __init__(self, path: Path, ram: int, *, queue_pairs: int = 1, dialect: Dialect) -> None:
        self.path = path
        self.ram = ram
        self.queue_pairs = queue_pairs
        self.dialect = dialect
        self.regions = split_memory(os.fstat(ram).st_size)
        self.features = 0
        self.kicks = [_eventfd() for _ in range(2 * queue_pairs)]
        self.calls = [_eventfd() for _ in range(2 * queue_pairs)]
        self.masked = [_eventfd() for _ in range(2 * queue_pairs)]
        """Calls at which nobody listens: QEMU's for a vector that is masked, or not set yet."""
        self.allowance: int | None = None
        """Bytes that it may still say before it dies in the middle of a word (EOFError); None: it lives."""
        self._protocol = 0
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Die; idempotent."""
        self.hang_up()
        for fd in (*self.kicks, *self.calls, *self.masked):
            os.close(fd)
        self.kicks, self.calls, self.masked = [], [], []

    def hang_up(self) -> None:
        """End the connection; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Section: words

    async def connect(self) -> None:
        """Connect, without a word."""
        self.hang_up()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.connect(str(self.path))

    async def say(
        self, request: Request, payload: bytes = b"", fds: Sequence[int] = (), *, need_reply: bool = False
    ) -> None:
        """Send a message."""
        await self.send(vhost_user_messages.request(request, payload, need_reply=need_reply), fds)

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors beside them."""
        if self.allowance is not None:
            data, self.allowance = data[: self.allowance], max(0, self.allowance - len(data))
        assert self._socket is not None
        sent = socket.send_fds(self._socket, [data], list(fds)) if fds and data else 0
        await asyncio.get_running_loop().sock_sendall(self._socket, data[sent:])
        if self.allowance == 0:
            raise EOFError

    async def reply(self) -> tuple[int, bytes]:
        """Read a reply: its request, and its payload. EOFError if the back-end has hung up."""
        request, flags, size = vhost_user.HEADER.unpack(await self._read(vhost_user.HEADER.size))
        assert flags == 0x5
        return request, await self._read(size)

    async def ask(self, request: Request, payload: bytes = b"") -> bytes:
        """Send a message that has a reply; return that."""
        await self.say(request, payload)
        number, content = await self.reply()
        assert number == request
        return content

    async def number(self, request: Request) -> int:
        """Ask for a number."""
        (number,) = struct.unpack("<Q", await self.ask(request))
        return int(number)

    async def insist(self, request: Request, payload: bytes, fds: Sequence[int] = ()) -> int:
        """Send a message that wants to be acknowledged; return 0 for success."""
        await self.say(request, payload, fds, need_reply=True)
        number, content = await self.reply()
        assert number == request
        (status,) = struct.unpack("<Q", content)
        return int(status)

    async def _read(self, size: int) -> bytes:
        assert self._socket is not None
        data = b""
        async with asyncio.timeout(5):
            while len(data) < size:
                more = await asyncio.get_running_loop().sock_recv(self._socket, size - len(data))
                if not more:
                    raise EOFError
                data += more
        return data

    # Section: what a QEMU does

    async def greet(self) -> None:
        """Do what `netdev_add` does, and a reconnection; the calls that nobody listens at come with it."""
        for pair in range(self.queue_pairs):
            offered = await self.number(Request.GET_FEATURES)
            protocol = await self.number(Request.GET_PROTOCOL_FEATURES)
            known = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS
            self._protocol = protocol & known
            if not self.dialect.slots:
                self._protocol &= ~ProtocolFeature.CONFIGURE_MEM_SLOTS
            await self.say(Request.SET_PROTOCOL_FEATURES, vhost_user_messages.number_payload(self._protocol))
            assert await self.number(Request.GET_QUEUE_NUM) >= self.queue_pairs
            if self._protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS:
                assert await self.number(Request.GET_MAX_MEM_SLOTS) >= 8
            if pair == 0:
                await self.say(Request.SET_OWNER)
            self.features = self.features or await self.number(Request.GET_FEATURES)
            assert not self.features & ~offered
            for ring in (2 * pair, 2 * pair + 1):
                await self.say_fd(Request.SET_VRING_CALL, ring, self.masked[ring])
                await self.say_fd(Request.SET_VRING_ERR, ring, self.masked[ring])

    async def say_fd(self, request: Request, ring: int, fd: int) -> None:
        """Give a ring an eventfd."""
        if self.dialect.fds_wait and self._protocol & ProtocolFeature.REPLY_ACK:
            assert await self.insist(request, vhost_user_messages.number_payload(ring), [fd]) == 0
        else:
            await self.say(request, vhost_user_messages.number_payload(ring), [fd])

    async def enable(self, pairs: int) -> None:
        """Enable the first rings, and disable the others."""
        for ring in range(2 * self.queue_pairs):
            payload = vhost_user_messages.state_payload(RingState(index=ring, value=int(ring < 2 * pairs)))
            if self.dialect.enable_waits:
                assert await self.insist(Request.SET_VRING_ENABLE, payload) == 0
            else:
                await self.say(Request.SET_VRING_ENABLE, payload)

    async def start(self, pairs: int | None = None, *, base: int = 0) -> None:
        """Do what DRIVER_OK does: features, memory, and every ring of `pairs` (of all)."""
        pairs = self.queue_pairs if pairs is None else pairs
        if self.dialect.call_first:
            for ring in range(2 * pairs):
                await self.say_fd(Request.SET_VRING_CALL, ring, self.calls[ring])
        for pair in range(pairs):
            await self.say(Request.SET_FEATURES, vhost_user_messages.number_payload(self.features))
            if pair == 0 or (self.dialect.repeats_memory and self.dialect.slots):
                assert await self.tell_memory() == 0
            for ring in (2 * pair, 2 * pair + 1):
                await self.start_ring(ring, base=base)

    async def tell_memory(self) -> int:
        """Tell where the RAM is; 0 for success."""
        if not self._protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS:
            table = vhost_user_messages.table_payload(self.regions)
            return await self.insist(Request.SET_MEM_TABLE, table, [self.ram] * len(self.regions))
        return sum([await self.add(region, self.ram) for region in self.regions])

    async def add(self, region: MemoryRegion, fd: int) -> int:
        """Add one region; 0 for success."""
        return await self.insist(Request.ADD_MEM_REG, vhost_user_messages.region_payload(region), [fd])

    async def remove(self, region: MemoryRegion) -> int:
        """Take one region away; 0 for success."""
        return await self.insist(Request.REM_MEM_REG, vhost_user_messages.region_payload(region))

    async def start_ring(self, ring: int, *, base: int = 0) -> None:
        """Start one ring."""
        await self.say(
            Request.SET_VRING_NUM, vhost_user_messages.state_payload(RingState(index=ring, value=RING_SIZE))
        )
        await self.say(Request.SET_VRING_BASE, vhost_user_messages.state_payload(RingState(index=ring, value=base)))
        await self.say(Request.SET_VRING_ADDR, vhost_user_messages.address_payload(self.address(ring)))
        await self.say_fd(Request.SET_VRING_KICK, ring, self.kicks[ring])
        if not self.dialect.call_first:
            await self.say_fd(Request.SET_VRING_CALL, ring, self.calls[ring])

    def offset(self, ring: int) -> int:
        """Return where a ring is in the RAM's file: in its last region."""
        return self.regions[-1].offset + _RINGS_AT + ring * _RING_BYTES

    def address(self, ring: int) -> RingAddress:
        """Return a ring's addresses as this QEMU has them."""
        at = self.regions[-1].user + _RINGS_AT + ring * _RING_BYTES
        avail, used = at + 16 * RING_SIZE, at + 16 * RING_SIZE + 4096
        return RingAddress(index=ring, flags=0, desc=at, used=used, avail=avail, log=0)

    def set_used(self, ring: int, index: int) -> None:
        """Say, as a ring's back-end, how many of its buffers were used."""
        os.pwrite(self.ram, struct.pack("<H", index & 0xFFFF), self.offset(ring) + 16 * RING_SIZE + 4096 + 2)

    async def stop(self, pairs: int | None = None) -> list[int]:
        """Do what a reset, an unbound driver, a stop of the VM or an unplug do; return the rings' bases."""
        bases = []
        for ring in range(2 * (self.queue_pairs if pairs is None else pairs)):
            content = await self.ask(
                Request.GET_VRING_BASE, vhost_user_messages.state_payload(RingState(index=ring, value=0))
            )
            index, base = struct.unpack("<II", content)
            assert index == ring
            bases.append(base)
        return bases

    async def up(self) -> None:
        """Do all up to rings that work."""
        await self.connect()
        await self.greet()
        await self.enable(self.queue_pairs)
        await self.start()


@asynccontextmanager
async def frontend(
    path: Path, *, dialect: Dialect, size: int = 256 * MIB, queue_pairs: int = 1
) -> AsyncIterator[Frontend]:
    """Yield a front-end with RAM of its own; it dies at the block's end."""
    ram = sealed_memory("ram", size)
    made = Frontend(path, ram, queue_pairs=queue_pairs, dialect=dialect)
    try:
        yield made
    finally:
        made.close()
        os.close(ram)


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
