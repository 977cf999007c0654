"""The control page and the region's header as the host sees them: docs/shared-memory-layout.md. Pure.

The third writing of it is images/driver/layout.h; a test compares all three.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

PAGE_SIZE = 65536
SLOT_SIZE = 2048
SLOTS = 31
CONTROL_MAGIC = 0x54435056
CONTROL_VERSION = 2
REGION_MAGIC = 0x4E485356
REGION_VERSION = 1

HEADERS_SIZE = 16384
SIDE_SIZE = 4096
"""Bytes of a region before its first ring: header, a page for each side, and one to spare."""

SMALLEST_REGION = 1 << 20
SMALLEST_RING = 1 << 18
LARGEST_RING = 1 << 30
MAX_QUEUE_PAIRS = 16
MAX_REGIONS = 16
MAX_RINGS = 2 * MAX_QUEUE_PAIRS

ACK_SECONDS = 3.0
"""For a guest to let go of a device; a driver takes about a millisecond, a guest that hangs or has none for ever."""

HOST_ID = 1
"""Under this id the broker listens in every VM: its one interrupt is the guest's acknowledgement."""

LARGEST_ID = 65535

_FIRST_ID = 2
_IDS_OF_A_ROLE = (LARGEST_ID + 1 - _FIRST_ID) // 2
KIND_NET = 1
KIND_VHOST_PCI = 2

_TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


class SlotState(IntEnum):
    """What the host says of a device; written after all else of its slot."""

    FREE = 0
    ON = 1
    OFF = 2


class AnswerState(IntEnum):
    """What a driver says of itself; it works the peer's rings only in state ON."""

    NONE = 0
    ON = 1
    OFF = 2


class Layout:
    """A structure: its fields' names and types in order, little-endian, without gaps."""

    def __init__(self, name: str, fields: Mapping[str, str], *parts: Layout) -> None:
        self.name = name
        self.fields = fields
        """Name → type, for instance `u32`, `u8[6]` or one of the parts' names; arrays and parts are bytes here."""
        self._codes = {**_TYPES, **{part.name: f"{part.size}s" for part in parts}}
        self._struct = struct.Struct("<" + "".join(map(self._code, fields.values())))

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
            offset += struct.calcsize("<" + self._code(type_))
        return found

    def pack(self, **values: int | bytes) -> bytes:
        """Return the structure's bytes; a field that is not named is zero. KeyError, struct.error for wrong ones."""
        if unknown := values.keys() - self.fields.keys():
            raise KeyError(*unknown)
        zeros = (b"" if self._code(type_).endswith("s") else 0 for type_ in self.fields.values())
        return self._struct.pack(*(values.get(name, zero) for name, zero in zip(self.fields, zeros, strict=True)))

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """Return the fields of a structure at the beginning of `data`."""
        return dict(zip(self.fields, self._struct.unpack_from(data), strict=True))

    def _code(self, type_: str) -> str:
        """Return struct's code of a type."""
        base, _, count = type_.partition("[")
        each = self._codes[base]
        return f"{int(count.rstrip(']')) * struct.calcsize('<' + each)}s" if count else each


CONTROL_HEADER = Layout(
    "vshm_control_header",
    {"magic": "u32", "version": "u16", "slot_size": "u16", "slots": "u16", "reserved": "u8[54]"},
)

PEER_REGION = Layout("vshm_peer_region", {"address": "u64", "size": "u64", "offset": "u64"})

PEER_RING = Layout(
    "vshm_peer_ring",
    {"desc": "u64", "avail": "u64", "used": "u64", "doorbell": "u32", "size": "u16", "vector": "u16"},
)

ANSWER = Layout(
    "vshm_answer",
    {
        "state": "u32",
        "ivposition": "u32",
        "sequence": "u32",
        "request": "u32",
        "features": "u64",
        "reserved": "u8[40]",
    },
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
        "features": "u64",
        "sequence": "u32",
        "region_count": "u32",
        "confirmed": "u32",
        "reserved2": "u8[36]",
        "regions": "vshm_peer_region[16]",
        "rings": "vshm_peer_ring[32]",
        "reserved3": "u8[448]",
        "answer": "vshm_answer",
    },
    PEER_REGION,
    PEER_RING,
    ANSWER,
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
    return CONTROL_HEADER.pack(magic=CONTROL_MAGIC, version=CONTROL_VERSION, slot_size=SLOT_SIZE, slots=SLOTS)


def slot_offset(slot: int) -> int:
    """Return where a slot begins; its first four bytes are the state."""
    return SLOT_SIZE * (slot + 1)


def slot_state(state: SlotState) -> bytes:
    """Return a slot's first field."""
    return struct.pack("<I", state)


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRegion:
    """A part of the peer's memory: where its guest has it, and where it is in BAR2."""

    address: int
    size: int
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRing:
    """One of the peer's virtqueues: offsets in BAR2, its size, what rings the peer, and by which vector it rings."""

    desc: int
    avail: int
    used: int
    size: int
    doorbell: int
    vector: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a driver has said last; from a guest, so nothing of it is to be trusted."""

    state: int
    ivposition: int
    sequence: int
    request: int
    features: int


def peer_regions(regions: Sequence[PeerRegion]) -> bytes:
    """Return a slot's `regions`; ValueError if they are too many."""
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"{len(regions)} regions of memory are more than {MAX_REGIONS}")
    return b"".join(PEER_REGION.pack(address=each.address, size=each.size, offset=each.offset) for each in regions)


def peer_rings(rings: Sequence[PeerRing]) -> bytes:
    """Return a slot's `rings`; ValueError if they are too many."""
    if len(rings) > MAX_RINGS:
        raise ValueError(f"{len(rings)} rings are more than {MAX_RINGS}")
    return b"".join(
        PEER_RING.pack(
            desc=each.desc,
            avail=each.avail,
            used=each.used,
            doorbell=each.doorbell,
            size=each.size,
            vector=each.vector,
        )
        for each in rings
    )


def peer_ring_offset(ring: int) -> int:
    """Return where a ring's entry begins in a slot."""
    return SLOT.offsets["rings"] + ring * PEER_RING.size


def answer(data: bytes) -> Answer:
    """Return the answer in the bytes of a slot's `answer`."""
    fields = {name: value for name, value in ANSWER.unpack(data).items() if isinstance(value, int)}
    return Answer(**fields)


def side_offset(role: int) -> int:
    """Return where in a region the block begins that one side's driver writes; it has `SIDE_SIZE` bytes."""
    return SIDE_SIZE * (1 + role)


def number(value: int) -> bytes:
    """Return a field of 32 bits."""
    return struct.pack("<I", value)


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
        version=REGION_VERSION,
        header_size=REGION_HEADER.size,
        region_size=region_size,
        generation=generation,
        queue_pairs=queue_pairs,
        data_offset=HEADERS_SIZE,
        ring_size=ring_size(region_size, queue_pairs),
    )


def peer_id(*, role: int, number: int, of: int, generation: int) -> int:
    """Return the id of one end's device: another for each generation of each of a VM's links, and for the peer's end.

    It is the device's IVPosition, by which a peer rings it. `number` counts the VM's links from 1 to `of`. It follows
    from the generation, so that it need not be remembered, and grows slowly, since a QEMU has a table of all ids
    below. One comes again after 32767 generations, divided by the VM's links: by then each of them was in a device of
    its own, long gone.
    """
    count = (generation - 1) * of + number - 1
    return _FIRST_ID + 2 * (count % (_IDS_OF_A_ROLE // of * of)) + role
