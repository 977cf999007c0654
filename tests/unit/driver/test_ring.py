"""The arithmetic of the rings: properties over all positions, hostile ones too, and a ring at work in two threads."""

from __future__ import annotations

import ctypes
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from tests.unit.driver.conftest import compile_c, run_sanitized

HEADER, ALIGN = 16, 16
LEAST, MOST = 14, 65600
WRAP = 1 << 32

anything = st.integers(0, WRAP - 1)
positions = st.one_of(
    st.integers(0, (WRAP - 1) // ALIGN), st.integers((WRAP - (1 << 21)) // ALIGN, (WRAP - 1) // ALIGN)
).map(lambda units: units * ALIGN)
sizes = st.integers(18, 30).map(lambda exponent: 1 << exponent)
lengths = st.one_of(st.integers(LEAST, MOST), st.sampled_from([LEAST, 15, 16, 17, 1514, 65535, 65536, MOST]))


@given(length=lengths)
def test_a_record_takes_its_header_and_its_packet_rounded_up(ring: ctypes.CDLL, length: int) -> None:
    assert ring.record_size(length) == -(-(HEADER + length) // ALIGN) * ALIGN


@given(head=positions, length=lengths, size=sizes)
def test_padding_keeps_a_record_in_one_piece(ring: ctypes.CDLL, head: int, length: int, size: int) -> None:
    need = ring.record_size(length)
    padding = ring.padding(head, need, size)
    begin = (head + padding) % size
    assert begin + need <= size
    assert padding % ALIGN == 0
    assert padding < need
    assert padding == 0 or begin == 0


@given(head=positions, length=lengths, size=sizes)
def test_the_worst_room_is_enough_wherever_the_head_is(ring: ctypes.CDLL, head: int, length: int, size: int) -> None:
    need = ring.record_size(length)
    assert ring.padding(head, need, size) + need <= ring.worst_room(length) <= size


@given(data=st.data(), head=positions, size=sizes)
def test_room_and_held_bytes_are_the_whole_ring(ring: ctypes.CDLL, data: DataObject, head: int, size: int) -> None:
    held = data.draw(st.integers(0, size))
    assert ring.room(head, (head - held) % WRAP, size) == size - held


@given(old=anything, moved=st.integers(0, 1 << 30), wish=st.integers(-(1 << 30), 1 << 30))
def test_a_position_is_passed_when_the_move_goes_beyond_it(
    ring: ctypes.CDLL, old: int, moved: int, wish: int
) -> None:
    # In plain numbers: the move is from 0 to `moved`, the wish lies at `wish`.
    assert bool(ring.passed((old + wish) % WRAP, (old + moved) % WRAP, old)) == (0 <= wish < moved)


@given(data=st.data(), head=positions, size=sizes)
def test_the_tail_passes_the_room_position_just_when_there_is_room(
    ring: ctypes.CDLL, data: DataObject, head: int, size: int
) -> None:
    held = data.draw(st.integers(1, size // ALIGN)) * ALIGN
    consumed = data.draw(st.integers(1, held // ALIGN)) * ALIGN
    wanted = data.draw(st.integers((size - held) // ALIGN + 1, size // ALIGN)) * ALIGN
    old = (head - held) % WRAP
    new = (old + consumed) % WRAP
    enough = size - held + consumed >= wanted
    assert bool(ring.passed(ring.room_position(head, wanted, size), new, old)) == enough


@given(claimed=anything, tail=positions, size=sizes, data=st.data())
def test_a_head_that_is_believed_is_within_the_ring_and_not_behind(
    ring: ctypes.CDLL, claimed: int, tail: int, size: int, data: DataObject
) -> None:
    known = data.draw(st.integers(0, size // ALIGN)) * ALIGN
    claimed = data.draw(st.sampled_from([claimed, (tail + claimed % (2 * size)) % WRAP]))
    held = (claimed - tail) % WRAP
    believed = ring.head_valid(claimed, (tail + known) % WRAP, tail, size)
    assert bool(believed) == (claimed % ALIGN == 0 and known <= held <= size)


@given(claimed=anything, head=positions, size=sizes, data=st.data())
def test_a_tail_that_is_believed_is_between_the_last_one_and_the_head(
    ring: ctypes.CDLL, claimed: int, head: int, size: int, data: DataObject
) -> None:
    held = data.draw(st.integers(0, size // ALIGN)) * ALIGN
    claimed = data.draw(st.sampled_from([claimed, (head - claimed % (2 * size)) % WRAP]))
    believed = ring.tail_valid(claimed, (head - held) % WRAP, head)
    assert bool(believed) == (claimed % ALIGN == 0 and (head - claimed) % WRAP <= held)


@given(length=st.one_of(anything, lengths), tail=positions, size=sizes, data=st.data())
def test_a_packet_that_is_believed_lies_within_what_the_ring_holds(
    ring: ctypes.CDLL, length: int, tail: int, size: int, data: DataObject
) -> None:
    held = data.draw(st.integers(1, size // ALIGN)) * ALIGN
    need = -(-(HEADER + length) // ALIGN) * ALIGN
    good = LEAST <= length <= MOST and need <= held and tail % size + need <= size
    assert bool(ring.packet_valid(length, tail, held, size)) == good


@given(length=anything, tail=positions, size=sizes, data=st.data())
def test_padding_that_is_believed_ends_at_the_rings_end(
    ring: ctypes.CDLL, length: int, tail: int, size: int, data: DataObject
) -> None:
    held = data.draw(st.integers(1, size // ALIGN)) * ALIGN
    left = size - tail % size
    length = data.draw(st.sampled_from([length, left - HEADER, left, left - HEADER + ALIGN]))
    assert bool(ring.padding_valid(length, tail, held, size)) == (length == left - HEADER and left <= held)


@settings(max_examples=50)
@given(
    first=positions,
    steps=st.lists(st.one_of(lengths, st.just(0)), min_size=20, max_size=200),
)
def test_what_goes_in_comes_out_in_order_and_never_over_what_is_there(
    ring: ctypes.CDLL, first: int, steps: list[int]
) -> None:
    size = 1 << 18
    head = tail = first
    waiting: deque[tuple[int, int, bool]] = deque()
    for length in steps:
        need = ring.record_size(length) if length else 0
        padding = ring.padding(head, need, size) if length else 0
        if length and padding + need <= ring.room(head, tail, size):
            if padding:
                waiting.append((head, padding - HEADER, True))
                head = (head + padding) % WRAP
            waiting.append((head, length, False))
            head = (head + need) % WRAP
        elif waiting:
            where, length_there, is_padding = waiting.popleft()
            assert where == tail
            check = ring.padding_valid if is_padding else ring.packet_valid
            assert check(length_there, tail, (head - tail) % WRAP, size)
            tail = (tail + ring.record_size(length_there)) % WRAP
        assert sum(ring.record_size(length_there) for _, length_there, _ in waiting) == (head - tail) % WRAP <= size


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_two_threads_lose_no_record_and_no_doorbell(tmp_path: Path, sanitizer: str) -> None:
    program = tmp_path / "threads"
    problem = compile_c("-pthread", f"-fsanitize={sanitizer}", "-o", str(program), "threads.c")
    if "cannot find" in problem:
        pytest.skip(f"no library for -fsanitize={sanitizer}")
    assert problem == ""
    for seed, first in ((1, 0), (2, WRAP - (1 << 20)), (3, WRAP - ALIGN)):
        run_sanitized(program, "2000", str(seed), str(first))
