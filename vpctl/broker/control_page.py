"""The host's part of the shared memory: control page and region header, as docs/shared-memory-layout.md says. Pure.

The third writing of it is images/driver/layout.h; a test compares all three.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

PAGE_SIZE = 65536
SLOT_SIZE = 256
SLOTS = 255
CONTROL_MAGIC = 0x54435056
REGION_MAGIC = 0x4E485356
VERSION = 1

HEADERS_SIZE = 16384
"""Bytes of a region before its first ring: header, a page for each side, and one to spare."""

SMALLEST_REGION = 1 << 20
SMALLEST_RING = 1 << 18
LARGEST_RING = 1 << 30
MAX_QUEUE_PAIRS = 16
KIND_NET = 1

_TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


class SlotState(IntEnum):
    """What the host says of a device; written after all else of its slot."""

    FREE = 0
    ON = 1
    OFF = 2


class Layout:
    """A structure: its fields' names and types in order, little-endian, without gaps."""

    def __init__(self, name: str, fields: Mapping[str, str]) -> None:
        self.name = name
        self.fields = fields
        """Name → type, for instance `u32` or `u8[6]`; arrays are bytes here."""
        self._struct = struct.Struct("<" + "".join(map(_code, fields.values())))

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._struct.size

    @property
    def offsets(self) -> dict[str, int]:
        """Where each field begins."""
        found, offset = {}, 0
        for name, type_ in self.fields.items():
            found[name] = offset
            offset += struct.calcsize("<" + _code(type_))
        return found

    def pack(self, **values: int | bytes) -> bytes:
        """Return the structure's bytes; a field that is not named is zero. KeyError, struct.error for wrong ones."""
        if unknown := values.keys() - self.fields.keys():
            raise KeyError(*unknown)
        zeros = (b"" if "[" in type_ else 0 for type_ in self.fields.values())
        return self._struct.pack(*(values.get(name, zero) for name, zero in zip(self.fields, zeros, strict=True)))

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """Return the fields of a structure at the beginning of `data`."""
        return dict(zip(self.fields, self._struct.unpack_from(data), strict=True))


def _code(type_: str) -> str:
    """Return struct's code of a type."""
    base, _, count = type_.partition("[")
    return f"{count.rstrip(']')}s" if count else _TYPES[base]


CONTROL_HEADER = Layout(
    "vshm_control_header",
    {"magic": "u32", "version": "u16", "slot_size": "u16", "slots": "u16", "reserved": "u8[54]"},
)

SLOT = Layout(
    "vshm_slot",
    {
        "state": "u32",
        "ivposition": "u32",
        "generation": "u32",
        "kind": "u16",
        "role": "u16",
        "peer": "u32",
        "host": "u32",
        "queue_pairs": "u16",
        "mtu": "u16",
        "mac": "u8[6]",
        "name": "u8[16]",
        "reserved": "u8[6]",
        "region_size": "u64",
        "data_offset": "u32",
        "ring_size": "u32",
        "reserved2": "u8[184]",
    },
)

REGION_HEADER = Layout(
    "vshm_region_header",
    {
        "magic": "u32",
        "version": "u16",
        "header_size": "u16",
        "region_size": "u64",
        "generation": "u32",
        "queue_pairs": "u32",
        "data_offset": "u32",
        "ring_size": "u32",
        "reserved": "u8[32]",
    },
)


def control_header() -> bytes:
    """Return the header of a control page."""
    return CONTROL_HEADER.pack(magic=CONTROL_MAGIC, version=VERSION, slot_size=SLOT_SIZE, slots=SLOTS)


def slot_offset(slot: int) -> int:
    """Return where a slot begins; its first four bytes are the state."""
    return SLOT_SIZE * (slot + 1)


def slot_state(state: SlotState) -> bytes:
    """Return a slot's first field."""
    return struct.pack("<I", state)


def vectors(queue_pairs: int) -> int:
    """Return a device's interrupts: control, and data and room for each queue pair."""
    return 1 + 2 * queue_pairs


def ring_size(region_size: int, queue_pairs: int) -> int:
    """Return the size of each ring: the largest power of two that fits. ValueError if the least does not."""
    room = (region_size - HEADERS_SIZE) // (2 * queue_pairs)
    if room < SMALLEST_RING:
        raise ValueError(f"{region_size} bytes have no room for {queue_pairs} queue pairs")
    return min(LARGEST_RING, 1 << (room.bit_length() - 1))


def smallest_region(queue_pairs: int) -> int:
    """Return the least size that holds so many queue pairs: a power of two."""
    needed = HEADERS_SIZE + 2 * queue_pairs * SMALLEST_RING
    return max(SMALLEST_REGION, 1 << (needed - 1).bit_length())


def region_header(*, region_size: int, generation: int, queue_pairs: int) -> bytes:
    """Return the header of a region."""
    return REGION_HEADER.pack(
        magic=REGION_MAGIC,
        version=VERSION,
        header_size=REGION_HEADER.size,
        region_size=region_size,
        generation=generation,
        queue_pairs=queue_pairs,
        data_offset=HEADERS_SIZE,
        ring_size=ring_size(region_size, queue_pairs),
    )
