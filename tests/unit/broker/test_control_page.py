"""The host's structures: what is packed comes back, and rings fit into their region."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.broker import control_page as layout
from vpctl.broker.control_page import (
    ANSWER,
    CONTROL_HEADER,
    HOST_ID,
    LARGEST_ID,
    PEER_REGION,
    PEER_RING,
    REGION_HEADER,
    SLOT,
    Answer,
    Layout,
    PeerRegion,
    PeerRing,
    peer_id,
)


def values_of(structure: Layout) -> st.SearchStrategy[dict[str, int | bytes]]:
    """Return a strategy for any contents of a structure."""
    ends = [*structure.offsets.values(), structure.size][1:]
    sizes = {name: end - at for (name, at), end in zip(structure.offsets.items(), ends, strict=True)}
    return st.fixed_dictionaries(
        {
            name: st.integers(0, (1 << 8 * sizes[name]) - 1)
            if type_ in ("u16", "u32", "u64")
            else st.binary(min_size=sizes[name], max_size=sizes[name])
            for name, type_ in structure.fields.items()
        }
    )


STRUCTURES = [CONTROL_HEADER, SLOT, PEER_REGION, PEER_RING, ANSWER, REGION_HEADER]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.name)
@given(st.data())
def test_what_is_packed_comes_back(structure: Layout, data: st.DataObject) -> None:
    values = data.draw(values_of(structure))
    packed = structure.pack(**values)
    assert len(packed) == structure.size
    assert structure.unpack(packed + b"more") == values


def test_a_field_that_is_not_named_is_zero_and_one_that_does_not_exist_an_error() -> None:
    assert SLOT.pack(mtu=0xABCD) == bytes(26) + b"\xcd\xab" + bytes(2020)
    with pytest.raises(KeyError, match="mtus"):
        SLOT.pack(mtus=1)
    with pytest.raises(struct.error):
        SLOT.pack(mtu=1 << 16)


def test_slots_follow_the_header_and_fill_the_page() -> None:
    assert layout.slot_offset(0) == layout.SLOT_SIZE == SLOT.size
    assert layout.slot_offset(layout.SLOTS - 1) + SLOT.size == layout.PAGE_SIZE


@given(st.integers(20, 40), st.integers(1, layout.MAX_QUEUE_PAIRS))
def test_a_regions_rings_fit_and_are_as_large_as_they_can_be(exponent: int, queue_pairs: int) -> None:
    size = 1 << exponent
    if size < layout.smallest_region(queue_pairs):
        with pytest.raises(ValueError, match="no room"):
            layout.ring_size(size, queue_pairs)
        return
    ring = layout.ring_size(size, queue_pairs)
    assert ring & (ring - 1) == 0
    assert layout.SMALLEST_RING <= ring <= layout.LARGEST_RING
    used = layout.HEADERS_SIZE + 2 * queue_pairs * ring
    assert used <= size
    assert ring == layout.LARGEST_RING or used + 2 * queue_pairs * ring > size


@given(st.integers(1, layout.MAX_QUEUE_PAIRS))
def test_the_smallest_region_is_a_power_of_two_that_just_holds_the_rings(queue_pairs: int) -> None:
    least = layout.smallest_region(queue_pairs)
    assert least & (least - 1) == 0
    assert layout.ring_size(least, queue_pairs) >= layout.SMALLEST_RING
    if least > layout.SMALLEST_REGION:
        with pytest.raises(ValueError, match="no room"):
            layout.ring_size(least // 2, queue_pairs)


def test_a_regions_header_says_what_its_devices_slots_say() -> None:
    header = REGION_HEADER.unpack(layout.region_header(region_size=1 << 24, generation=7, queue_pairs=2))
    assert header == {
        "magic": 0x4E485356,
        "version": 1,
        "header_size": 64,
        "region_size": 1 << 24,
        "generation": 7,
        "queue_pairs": 2,
        "data_offset": 16384,
        "ring_size": 1 << 21,
        "reserved": bytes(32),
    }
    assert layout.vectors(2) == 5


# Section: the peer's memory and rings


def test_regions_and_rings_stand_in_the_slot_one_after_the_other() -> None:
    regions = [
        PeerRegion(address=0, size=0xA0000, offset=0),
        PeerRegion(address=1 << 32, size=1 << 31, offset=1 << 31),
    ]
    ring = PeerRing(desc=0x1000, avail=0x2000, used=0x3000, size=256, doorbell=2 << 16 | 1, vector=2)
    slot = SLOT.pack(regions=layout.peer_regions(regions), rings=layout.peer_rings([ring, ring]))
    assert PEER_REGION.unpack(slot[128 + 24 :]) == {"address": 1 << 32, "size": 1 << 31, "offset": 1 << 31}
    assert slot[layout.peer_ring_offset(1) :][:32] == bytes.fromhex(
        "0010000000000000 0020000000000000 0030000000000000 01000200 0001 0200"
    )
    assert layout.peer_ring_offset(0) == 512
    assert slot[176:512] == bytes(336)
    assert slot[576:] == bytes(2048 - 576)


def test_more_regions_or_rings_than_a_slot_holds_are_an_error() -> None:
    region = PeerRegion(address=0, size=1, offset=0)
    assert len(layout.peer_regions([region] * 16)) == 512 - 128
    with pytest.raises(ValueError, match="17 regions"):
        layout.peer_regions([region] * 17)
    ring = PeerRing(desc=0, avail=0, used=0, size=1, doorbell=0, vector=0)
    assert len(layout.peer_rings([ring] * 32)) == 1536 - 512
    with pytest.raises(ValueError, match="33 rings"):
        layout.peer_rings([ring] * 33)


def test_an_answer_is_read_from_its_bytes() -> None:
    data = struct.pack("<IIIIQ40x", 1, 2, 3, 4, 5)
    assert layout.answer(data) == Answer(state=1, ivposition=2, sequence=3, request=4, features=5)


def test_the_ids_of_a_vms_devices_over_generations_are_all_different_and_fit_into_16_bits() -> None:
    ids = [
        peer_id(role=role, number=number, of=5, generation=generation)
        for role in (0, 1)
        for number in range(1, 6)
        for generation in range(1, 6001)
    ]
    assert len(set(ids)) == len(ids)
    assert max(ids) <= LARGEST_ID
    assert min(ids) > HOST_ID


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_the_two_ends_never_have_the_same_id_wherever_the_link_stands_in_either_vm(
    one: int, other: int, generation: int, later: int
) -> None:
    first = peer_id(role=0, number=one, of=24, generation=generation)
    second = peer_id(role=1, number=other, of=24, generation=later)
    assert first != second
    assert min(first, second) > HOST_ID
    assert max(first, second) <= LARGEST_ID
