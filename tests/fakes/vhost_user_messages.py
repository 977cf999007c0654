"""What a vhost-user front-end says, as bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vpctl.broker.vhost_user.message import HEADER, NEED_REPLY, VERSION, MemoryRegion, Request, RingAddress, RingState

_NUMBER = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESS = struct.Struct("<IIQQQQ")
_COUNT = struct.Struct("<II")
_PADDING = 8


def request(number: Request, payload: bytes = b"", *, need_reply: bool = False) -> bytes:
    """Return the bytes of a request."""
    return HEADER.pack(number, VERSION | (NEED_REPLY if need_reply else 0), len(payload)) + payload


def number_payload(number: int) -> bytes:
    """Return the payload of SET_FEATURES and its like, and of a ring's descriptor."""
    return _NUMBER.pack(number)


def state_payload(state: RingState) -> bytes:
    """Return the payload of a ring's size, base, or enabling."""
    return _STATE.pack(state.index, state.value)


def address_payload(address: RingAddress) -> bytes:
    """Return the payload of SET_VRING_ADDR."""
    return _ADDRESS.pack(address.index, address.flags, address.desc, address.used, address.avail, address.log)


def table_payload(regions: Sequence[MemoryRegion]) -> bytes:
    """Return the payload of SET_MEM_TABLE."""
    return _COUNT.pack(len(regions), 0) + b"".join(region.encode() for region in regions)


def region_payload(region: MemoryRegion) -> bytes:
    """Return the payload of ADD_MEM_REG and REM_MEM_REG."""
    return bytes(_PADDING) + region.encode()
