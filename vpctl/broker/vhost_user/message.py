"""The vhost-user protocol as a QEMU's virtio-net speaks it to its back-end: QEMU's docs/interop/vhost-user.rst. Pure.

A message is a header of three 32-bit numbers (request, flags, size of what follows), its payload, and descriptors
beside it. Numbers are little-endian. Only the front-end asks; the back-end replies to what asks for a reply.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

HEADER = struct.Struct("<III")

VERSION = 1
VERSION_MASK = 0x3
REPLY = 0x4
NEED_REPLY = 0x8

LARGEST_PAYLOAD = 4096
"""Bytes; what QEMU sends has a few hundred at most. With more, nobody knows where the next message begins."""

MOST_FDS = 8
"""Descriptors in one message."""

MOST_REGIONS = 8
"""Regions in one table; more come one by one, with CONFIGURE_MEM_SLOTS."""

LARGEST_RING = 32768

_LARGEST = (1 << 64) - 1


class Request(IntEnum):
    """The requests of the vhost-user protocol, by their numbers."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


_NAMES = {request.value: request.name for request in Request}


class Feature(IntFlag):
    """Features of virtio and of vhost-user's virtio-net that a back-end may offer."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    MQ = 1 << 22
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32


class ProtocolFeature(IntFlag):
    """Features of the protocol itself."""

    MQ = 1 << 0
    REPLY_ACK = 1 << 3
    CONFIGURE_MEM_SLOTS = 1 << 15


class ProtocolError(Exception):
    """The stream cannot be trusted any more: where the next message begins, or whose its descriptors are."""


class RefusedError(Exception):
    """A message that was read whole and is not carried out; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message as it was read; its descriptors belong to whoever has it."""

    request: int
    flags: int
    payload: bytes
    fds: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The request's name, for people."""
        return _NAMES.get(self.request, f"request {self.request}")

    @property
    def wants_reply(self) -> bool:
        """Whether it asks to be told how it went, though its kind has no reply of its own."""
        return bool(self.flags & NEED_REPLY)

    def encode(self) -> bytes:
        """Return the message's bytes; the descriptors travel beside them."""
        return HEADER.pack(self.request, self.flags, len(self.payload)) + self.payload


@dataclass(frozen=True, kw_only=True, slots=True)
class RingState:
    """A ring's number, and its size, its base or whether it is enabled."""

    index: int
    value: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RingAddress:
    """Where a ring is, in addresses of the front-end's own process."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RingFd:
    """A ring's number, and whether a descriptor should be with it."""

    index: int
    has_fd: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRegion:
    """A piece of the guest's memory: where the guest has it, where QEMU has it, and where in its file it begins."""

    address: int
    size: int
    user: int
    offset: int

    def encode(self) -> bytes:
        """Return its bytes, as they are in a payload."""
        return _REGION.pack(self.address, self.size, self.user, self.offset)


_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESS = struct.Struct("<IIQQQQ")
_REGION = struct.Struct("<QQQQ")
_COUNT = struct.Struct("<II")
_ONE_REGION = 8

_NO_FD = 1 << 8
_INDEX_MASK = 0xFF

Payload = int | RingState | RingAddress | RingFd | tuple[MemoryRegion, ...] | None

NOTHING = frozenset(
    {
        Request.GET_FEATURES,
        Request.SET_OWNER,
        Request.RESET_OWNER,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.RESET_DEVICE,
        Request.GET_MAX_MEM_SLOTS,
    }
)
"""Requests without a payload."""

NUMBERS = frozenset({Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES})

STATES = frozenset({Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE})

RING_FDS = frozenset({Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR})

UNDERSTOOD = (
    NOTHING
    | NUMBERS
    | STATES
    | RING_FDS
    | {Request.SET_VRING_ADDR, Request.SET_MEM_TABLE, Request.ADD_MEM_REG, Request.REM_MEM_REG}
)

REPLIES = frozenset(
    {
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.GET_MAX_MEM_SLOTS,
        Request.GET_VRING_BASE,
    }
)
"""Requests that have a reply of their own."""


class Parser:
    """Puts messages together from pieces of a stream; read at most `wanted` bytes for each `feed`.

    So a piece never reaches into the next message, and the descriptors that come with it are this message's.
    """

    def __init__(self) -> None:
        self._data = b""
        self._fds: list[int] = []
        self._size: int | None = None

    @property
    def wanted(self) -> int:
        """How many bytes are missing, of the header or of the payload."""
        return HEADER.size + (self._size or 0) - len(self._data)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> Message | None:
        """Take a piece; return a message that it completes. ProtocolError if it cannot be one."""
        self._fds += fds
        if len(data) > self.wanted:
            raise ProtocolError(f"{len(data)} bytes where {self.wanted} were asked for")
        self._data += data
        if self._size is None and self.wanted == 0:
            self._size = self._payload_size()
        if len(self._fds) > MOST_FDS:
            raise ProtocolError(f"{len(self._fds)} descriptors with one message")
        if self._size is None or self.wanted:
            return None
        request, flags, _ = HEADER.unpack_from(self._data)
        message = Message(request=request, flags=flags, payload=self._data[HEADER.size :], fds=tuple(self.drop()))
        self._data, self._size = b"", None
        return message

    def drop(self) -> list[int]:
        """Give away the descriptors of a message that is not complete; whoever gets them closes them."""
        fds, self._fds = self._fds, []
        return fds

    def _payload_size(self) -> int:
        request, flags, size = HEADER.unpack(self._data)
        if flags & VERSION_MASK != VERSION:
            raise ProtocolError(f"request {request} is of version {flags & VERSION_MASK}, not {VERSION}")
        if flags & REPLY:
            raise ProtocolError(f"request {request} says that it is a reply")
        if size > LARGEST_PAYLOAD:
            raise ProtocolError(f"request {request} has {size} bytes")
        return int(size)


def decode(message: Message) -> Payload:
    """Return a message's payload, its size and its descriptors' number found right; RefusedError otherwise.

    What the numbers mean is for the back-end to judge, but for rings' sizes and regions that could not be anywhere.
    """
    request = message.request
    if request not in UNDERSTOOD:
        raise RefusedError(f"{message.name} is not understood")
    if request in RING_FDS:
        (number,) = _unpack(message, _U64)
        ring_fd = RingFd(index=number & _INDEX_MASK, has_fd=not number & _NO_FD)
        if number & ~(_INDEX_MASK | _NO_FD):
            raise RefusedError(f"{message.name} has unknown bits: {number:#x}")
        _expect_fds(message, int(ring_fd.has_fd))
        return ring_fd
    if request == Request.SET_MEM_TABLE:
        regions = _table(message)
        _expect_fds(message, len(regions))
        return regions
    if request == Request.ADD_MEM_REG:
        _expect_fds(message, 1)
        return (_single(message),)
    if request == Request.REM_MEM_REG:  # a descriptor may be with it, for no use
        return (_single(message),)
    _expect_fds(message, 0)
    if request in NUMBERS:
        (number,) = _unpack(message, _U64)
        return int(number)
    if request in STATES:
        index, value = _unpack(message, _STATE)
        return RingState(index=index, value=value)
    if request == Request.SET_VRING_ADDR:
        index, flags, desc, used, avail, log = _unpack(message, _ADDRESS)
        return RingAddress(index=index, flags=flags, desc=desc, used=used, avail=avail, log=log)
    if message.payload:
        raise RefusedError(f"{message.name} has {len(message.payload)} bytes, not 0")
    return None


def _unpack(message: Message, form: struct.Struct) -> tuple[int, ...]:
    if len(message.payload) != form.size:
        raise RefusedError(f"{message.name} has {len(message.payload)} bytes, not {form.size}")
    return form.unpack(message.payload)


def _expect_fds(message: Message, count: int) -> None:
    if len(message.fds) != count:
        raise RefusedError(f"{message.name} has {len(message.fds)} descriptors, not {count}")


def _table(message: Message) -> tuple[MemoryRegion, ...]:
    if len(message.payload) < _COUNT.size:
        raise RefusedError(f"{message.name} has {len(message.payload)} bytes, not {_COUNT.size} and more")
    count, _ = _COUNT.unpack_from(message.payload)
    if count > MOST_REGIONS:
        raise RefusedError(f"{message.name} has {count} regions, more than {MOST_REGIONS}")
    expected = _COUNT.size + count * _REGION.size
    if len(message.payload) != expected:
        raise RefusedError(f"{message.name} has {len(message.payload)} bytes, not {expected} for {count} regions")
    return tuple(_region(message, _COUNT.size + at * _REGION.size) for at in range(count))


def _single(message: Message) -> MemoryRegion:
    if len(message.payload) != _ONE_REGION + _REGION.size:
        raise RefusedError(f"{message.name} has {len(message.payload)} bytes, not {_ONE_REGION + _REGION.size}")
    return _region(message, _ONE_REGION)


def _region(message: Message, at: int) -> MemoryRegion:
    address, size, user, offset = _REGION.unpack_from(message.payload, at)
    if not size or max(address, user, offset) + size - 1 > _LARGEST:
        raise RefusedError(f"{message.name} has a region of {size:#x} bytes at {address:#x}, {user:#x}, {offset:#x}")
    return MemoryRegion(address=address, size=size, user=user, offset=offset)


# Section: what is said back


def reply(message: Message, payload: bytes) -> bytes:
    """Return the bytes of the reply to a message."""
    return HEADER.pack(message.request, VERSION | REPLY, len(payload)) + payload


def number_reply(message: Message, number: int) -> bytes:
    """Return a reply that is a number: features, a count, or 0 for success and another for failure."""
    return reply(message, _U64.pack(number))


def state_reply(message: Message, state: RingState) -> bytes:
    """Return the reply to GET_VRING_BASE."""
    return reply(message, _STATE.pack(state.index, state.value))
