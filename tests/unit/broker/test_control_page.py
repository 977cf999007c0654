"""The host's structures: what is packed comes back, and rings fit into their region."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.broker import control_page as layout
from vpctl.broker.control_page import CONTROL_HEADER, REGION_HEADER, SLOT, Layout


def values_of(structure: Layout) -> st.SearchStrategy[dict[str, int | bytes]]:
    """Return a strategy for any contents of a structure."""
    numbers = {"u16": 16, "u32": 32, "u64": 64}
    return st.fixed_dictionaries(
        {
            name: st.integers(0, (1 << numbers[type_]) - 1)
            if type_ in numbers
            else st.binary(min_size=(size := int(type_[3:-1])), max_size=size)
            for name, type_ in structure.fields.items()
        }
    )


@pytest.mark.parametrize("structure", [CONTROL_HEADER, SLOT, REGION_HEADER], ids=lambda structure: structure.name)
@given(st.data())
def test_what_is_packed_comes_back(structure: Layout, data: st.DataObject) -> None:
    values = data.draw(values_of(structure))
    packed = structure.pack(**values)
    assert len(packed) == structure.size
    assert structure.unpack(packed + b"more") == values


def test_a_field_that_is_not_named_is_zero_and_one_that_does_not_exist_an_error() -> None:
    assert SLOT.pack(mtu=0xABCD) == bytes(26) + b"\xcd\xab" + bytes(228)
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
