"""The device's side of split virtqueues: what a hostile peer can write into them, and what the driver makes of it."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from tests.unit.driver.conftest import compile_c, library, run_sanitized

NEXT, WRITE, INDIRECT = 1, 2, 4
WRAP = 1 << 16
MOST = (1 << 64) - 1
MOST_PIECES = 1024
SIZE = 1 << 17
RING, DESC, AVAIL, USED = 16, 0, 256, 512
TABLES, DATA = 4096, 16384
"""Where the tests put indirect tables, and everything else, in BAR2."""

FUNCTIONS = {
    "span_valid": 3, "ring_valid": 5, "region_valid": 4, "add_region": 3, "set_ring": 6, "walk": 2, "pieces": 0,
    "bytes": 0, "piece_at": 1, "piece_length": 1, "look": 0, "waiting": 0, "head": 1, "publish": 0, "wants_ring": 0,
    "ask": 1, "quiet": 0, "next": 0, "complete": 2, "is_unheard": 0,
    "set_marks": 2, "lower_marks": 1, "raise_marks": 1, "stop_mark": 0, "wake_mark": 0,
}  # fmt: skip


class Fault(IntEnum):
    GOOD = 0
    AVAIL = 1
    CHAIN = 2
    INDIRECT = 3
    ADDRESS = 4
    DIRECTION = 5
    FOREIGN_USED = 6


@pytest.fixture(scope="session")
def vring(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Every function of vring.h, on one ring in one memory."""
    loaded = library(tmp_path_factory.mktemp("vring"), "vring.c")
    for name, arguments in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_uint64] * arguments
        function.restype = ctypes.c_uint64 if name == "piece_at" else ctypes.c_uint32
    loaded.set_memory.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    loaded.translate.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32)]
    loaded.translate.restype = ctypes.c_uint64
    return loaded


@dataclass(frozen=True, slots=True)
class Region:
    address: int
    size: int
    offset: int


WHOLE = Region(0x1000, SIZE, 0)
"""The peer's memory, unless a test says otherwise: its addresses are not BAR2's."""


@dataclass(slots=True)
class Peer:
    """A ring in a memory, as a peer's driver would write it; the library's one ring is this one."""

    vring: ctypes.CDLL
    regions: tuple[Region, ...] = (WHOLE,)
    event_idx: bool = True
    indirect: bool = True
    begin: int = 0
    memory: ctypes.Array[ctypes.c_char] = field(default_factory=lambda: ctypes.create_string_buffer(SIZE + 16))
    _skip: int = 0

    def __post_init__(self) -> None:
        base = ctypes.addressof(self.memory)
        self._skip = -base % 16
        self.vring.set_memory(base + self._skip, SIZE)
        for region in self.regions:
            self.vring.add_region(region.address, region.size, region.offset)
        self.write(USED, "<HH", 0, self.begin)
        self.vring.set_ring(DESC, AVAIL, USED, RING, self.event_idx, self.indirect)

    def write(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.memory, self._skip + at, *values)

    def read(self, at: int, form: str) -> int:
        found: int = struct.unpack_from(form, self.memory, self._skip + at)[0]
        return found

    def descriptor(self, at: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.write(at, "<QIHH", address, length, flags, following)

    def walk(self, head: int, write: bool = False) -> Fault:
        return Fault(self.vring.walk(head, write))

    def chain(self) -> list[tuple[int, int]]:
        return [(self.vring.piece_at(piece), self.vring.piece_length(piece)) for piece in range(self.vring.pieces())]


def address(offset: int) -> int:
    """Return the peer's address of what is in BAR2 at an offset."""
    return WHOLE.address + offset


# Section: bounds


@given(offset=st.integers(0, MOST), length=st.integers(0, MOST), size=st.integers(0, MOST))
def test_a_span_is_inside_just_when_all_of_it_is(vring: ctypes.CDLL, offset: int, length: int, size: int) -> None:
    assert bool(vring.span_valid(offset, length, size)) == (offset + length <= size)


edges = st.one_of(st.integers(0, MOST), st.integers(0, 2 * SIZE), st.integers(MOST - 2 * SIZE, MOST))


@given(begin=edges, size=edges, offset=edges)
def test_a_region_is_believed_if_it_does_not_wrap_and_lies_in_the_bar(
    vring: ctypes.CDLL, begin: int, size: int, offset: int
) -> None:
    good = size > 0 and begin + size <= MOST + 1 and offset + size <= SIZE
    assert bool(vring.region_valid(begin, size, offset, SIZE)) == good


@given(
    desc=edges, avail=edges, used=edges,
    entries=st.one_of(st.integers(0, 70000), st.integers(0, 17).map(lambda exponent: 1 << exponent)),
)  # fmt: skip
def test_a_ring_is_believed_if_it_is_aligned_of_a_fit_size_and_inside(
    vring: ctypes.CDLL, desc: int, avail: int, used: int, entries: int
) -> None:
    aligned = desc % 16 == avail % 2 == used % 4 == 0
    fit = entries in {1 << exponent for exponent in range(16)}
    inside = max(desc + 16 * entries, avail + 2 * entries + 6, used + 8 * entries + 6) <= SIZE
    assert bool(vring.ring_valid(desc, avail, used, entries, SIZE)) == (aligned and fit and inside)


regions = st.lists(
    st.builds(Region, st.integers(0, 1 << 20), st.integers(1, SIZE // 2), st.integers(0, SIZE // 2)),
    min_size=1, max_size=16,
)  # fmt: skip


@given(table=regions, data=st.data(), wanted=st.integers(1, (1 << 32) - 1))
def test_an_address_is_translated_in_whatever_order_the_regions_are(
    vring: ctypes.CDLL, table: list[Region], data: DataObject, wanted: int
) -> None:
    Peer(vring, regions=tuple(table))
    first = data.draw(st.integers(0, len(table) - 1))
    near = data.draw(st.sampled_from(table))
    asked = data.draw(
        st.one_of(
            st.integers(0, MOST),
            st.integers(near.address, near.address + near.size - 1),
            st.sampled_from([near.address, near.address + near.size - 1, near.address + near.size]),
        )
    )
    length = ctypes.c_uint32(wanted)
    found = vring.translate(first, asked, ctypes.byref(length))
    holding = [region for region in table if region.address <= asked < region.address + region.size]
    if table[first] in holding:
        holding = [table[first]]
    if not holding:
        assert found == MOST
        return
    offset = asked - holding[0].address
    assert found == holding[0].offset + offset
    assert length.value == min(wanted, holding[0].size - offset)
    assert found + length.value <= SIZE


# Section: chains


@dataclass(frozen=True, slots=True)
class Desc:
    address: int
    length: int
    flags: int
    following: int


def expected(peer: Peer, head: int, write: bool) -> tuple[Fault, list[tuple[int, int]]]:
    """Say what a chain in memory means, another way: a list of descriptors first, then their places."""
    pieces: list[tuple[int, int]] = []
    table, size, left, at, inside, total = DESC, RING, RING, head, False, 0
    while True:
        if at >= size or left == 0:
            return Fault.CHAIN, []
        left -= 1
        desc = Desc(*struct.unpack_from("<QIHH", peer.memory, peer._skip + table + 16 * at))
        if desc.flags & INDIRECT:
            where = place(peer, desc.address, desc.length)
            whole = where is not None and len(where) == 1
            fits = desc.length > 0 and desc.length % 16 == 0 and desc.address % 8 == 0
            if inside or not peer.indirect or desc.flags & NEXT or not fits or not whole:
                return Fault.INDIRECT, []
            assert where
            table, size, at, inside = where[0][0], desc.length // 16, 0, True
            left = size
            continue
        if bool(desc.flags & WRITE) != write:
            return Fault.DIRECTION, []
        if desc.length == 0:
            return Fault.ADDRESS, []
        total += desc.length
        if total >= 1 << 32:
            return Fault.CHAIN, []
        found = place(peer, desc.address, desc.length)
        if found is None:
            return Fault.ADDRESS, []
        pieces += found
        if len(pieces) > MOST_PIECES:
            return Fault.CHAIN, []
        if not desc.flags & NEXT:
            return Fault.GOOD, pieces
        at = desc.following


def place(peer: Peer, begin: int, length: int) -> list[tuple[int, int]] | None:
    """Return where bytes of the peer are in BAR2, cut where regions end."""
    found = []
    while length:
        region = next((each for each in peer.regions if each.address <= begin < each.address + each.size), None)
        if region is None:
            return None
        part = min(length, region.address + region.size - begin)
        found.append((region.offset + begin - region.address, part))
        begin, length = (begin + part) & MOST, length - part
    return found


SPLIT = (
    Region(0x1000, 0x6000, 0),
    Region(0x7000, 0x9000, 0x10000),  # continues the first, elsewhere in BAR2
    Region(0x100000000, 0x4000, 0x8000),  # above a hole
)

addresses = st.one_of(
    st.integers(0, MOST),
    st.integers(0x1000, 0x10100),
    st.integers(0x100000000, 0x100004000),
    st.sampled_from([0, MOST, 0x6FFF, 0x7000, 0x7001, 0xFFFF, 0x10000, 0x100003FFF, 0x1000 + TABLES]),
)
lengths = st.one_of(
    st.sampled_from([0, 1, 15, 16, 17, 64, 256, (1 << 32) - 1]),
    st.integers(0, 0x3000),
    st.integers(0, 40).map(lambda n: 16 * n),
)
flags = st.one_of(st.sampled_from([0, NEXT, WRITE, NEXT | WRITE, INDIRECT]), st.integers(0, WRAP - 1))
links = st.one_of(st.integers(0, RING), st.integers(0, WRAP - 1))
descriptors = st.builds(Desc, addresses, lengths, flags, links)


@given(
    ring=st.lists(descriptors, min_size=RING, max_size=RING), table=st.lists(descriptors, max_size=20), head=links,
    write=st.booleans(), indirect=st.booleans(),
)  # fmt: skip
def test_whatever_is_in_the_tables_a_chain_ends_and_lies_in_the_regions(
    vring: ctypes.CDLL, ring: list[Desc], table: list[Desc], head: int, write: bool, indirect: bool
) -> None:
    peer = Peer(vring, regions=SPLIT, indirect=indirect)
    for begin, content in ((DESC, ring), (TABLES, table)):
        for number, desc in enumerate(content):
            peer.descriptor(begin + 16 * number, desc.address, desc.length, desc.flags, desc.following)
    fault, pieces = expected(peer, head, write)
    assert peer.walk(head, write) == fault
    if fault == Fault.GOOD:
        assert peer.chain() == pieces
        assert vring.bytes() == sum(length for _, length in pieces)
    for at, length in peer.chain():
        assert at + length <= SIZE


@given(
    cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=RING), write=st.booleans(), indirect=st.booleans(),
    order=st.permutations(range(RING)),
)  # fmt: skip
def test_an_honest_chain_is_read_in_its_order(
    vring: ctypes.CDLL, cuts: list[int], write: bool, indirect: bool, order: list[int]
) -> None:
    peer = Peer(vring)
    table = TABLES if indirect else DESC
    offsets, at = [], DATA
    for length in cuts:
        offsets.append(at)
        at += length
    for number, (offset, length) in enumerate(zip(offsets, cuts, strict=True)):
        place_ = number if indirect else order[number]
        last = number == len(cuts) - 1
        flags_ = (WRITE if write else 0) | (0 if last else NEXT)
        following = number + 1 if indirect else order[(number + 1) % RING]
        peer.descriptor(table + 16 * place_, address(offset), length, flags_, following)
    if indirect:
        peer.descriptor(DESC + 16 * order[0], address(TABLES), 16 * len(cuts), INDIRECT)
    assert peer.walk(order[0], write) == Fault.GOOD
    assert peer.chain() == list(zip(offsets, cuts, strict=True))
    assert peer.walk(order[0], not write) == Fault.DIRECTION


@pytest.mark.parametrize("length", [1, 2, RING])
def test_a_chain_that_bites_its_tail_is_garbage(vring: ctypes.CDLL, length: int) -> None:
    peer = Peer(vring)
    for number in range(length):
        peer.descriptor(16 * number, address(DATA), 1, NEXT, (number + 1) % length)
    assert peer.walk(0) == Fault.CHAIN


def test_a_chain_may_be_as_long_as_its_table(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    for number in range(RING):
        peer.descriptor(16 * number, address(DATA), 1, NEXT if number < RING - 1 else 0, number + 1)
    assert peer.walk(0) == Fault.GOOD


def test_a_loop_in_an_indirect_table_is_garbage(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    peer.descriptor(0, address(TABLES), 64, INDIRECT)
    for number in range(4):
        peer.descriptor(TABLES + 16 * number, address(DATA), 1, NEXT, (number + 1) % 4)
    assert peer.walk(0) == Fault.CHAIN


def test_an_indirect_table_in_another_is_garbage(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    peer.descriptor(0, address(TABLES), 32, INDIRECT)
    peer.descriptor(TABLES, address(TABLES), 32, INDIRECT)
    assert peer.walk(0) == Fault.INDIRECT


def test_an_indirect_table_may_end_a_chain_but_not_be_followed(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    peer.descriptor(0, address(DATA), 12, NEXT, 1)
    peer.descriptor(16, address(TABLES), 16, INDIRECT)
    peer.descriptor(TABLES, address(DATA + 100), 60, 0)
    assert peer.walk(0) == Fault.GOOD
    assert peer.chain() == [(DATA, 12), (DATA + 100, 60)]
    peer.descriptor(16, address(TABLES), 16, INDIRECT | NEXT, 2)
    assert peer.walk(0) == Fault.INDIRECT


@pytest.mark.parametrize(
    ("begin", "length"),
    [(address(TABLES), 0), (address(TABLES), 15), (address(TABLES) + 4, 16), (WHOLE.address - 16, 16),
     (WHOLE.address + SIZE - 16, 32), (MOST - 15, 16)],
)  # fmt: skip
def test_an_indirect_table_that_is_not_whole_is_garbage(vring: ctypes.CDLL, begin: int, length: int) -> None:
    peer = Peer(vring)
    peer.descriptor(0, begin, length, INDIRECT)
    assert peer.walk(0) == Fault.INDIRECT


def test_more_pieces_than_anybody_needs_are_garbage(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    for count, fault in ((MOST_PIECES, Fault.GOOD), (MOST_PIECES + 1, Fault.CHAIN)):
        peer.descriptor(0, address(DATA), 16 * count, INDIRECT)
        for number in range(count):
            following = NEXT if number < count - 1 else 0
            peer.descriptor(DATA + 16 * number, address(TABLES), 1, following, number + 1)
        assert peer.walk(0) == fault


def test_bytes_that_do_not_fit_their_count_are_garbage(vring: ctypes.CDLL) -> None:
    # 2 GiB of regions would be needed for this; one that claims them is enough, since nothing is touched.
    peer = Peer(vring, regions=(Region(0, 1 << 40, 0),))
    for number in range(3):
        peer.descriptor(16 * number, 0, (1 << 31) - 1, NEXT, number + 1)
    assert peer.walk(0) == Fault.CHAIN


# Section: indices


@given(begin=st.integers(0, WRAP - 1), claimed=st.integers(0, WRAP - 1))
def test_an_available_index_is_believed_up_to_a_ring_ahead(vring: ctypes.CDLL, begin: int, claimed: int) -> None:
    peer = Peer(vring, begin=begin)
    peer.write(AVAIL, "<HH", 0, claimed)
    ahead = (claimed - begin) % WRAP
    assert bool(vring.look()) == (ahead <= RING)
    assert vring.waiting() == (ahead if ahead <= RING else 0)


@given(begin=st.integers(0, WRAP - 1), steps=st.lists(st.integers(0, RING), max_size=40))
def test_heads_are_taken_and_completed_in_order_over_the_wrap(
    vring: ctypes.CDLL, begin: int, steps: list[int]
) -> None:
    peer = Peer(vring, begin=begin)
    available = begin
    for count in steps:
        for _ in range(count):
            peer.write(AVAIL + 4 + 2 * (available % RING), "<H", available * 7 % WRAP)
            available = (available + 1) % WRAP
        peer.write(AVAIL, "<HH", 0, available)
        assert vring.look()
        assert vring.waiting() == count
        for _ in range(count):
            position, taken = vring.next(), vring.head(0)
            assert taken == position * 7 % WRAP
            vring.complete(taken, position)
            at = USED + 4 + 8 * (position % RING)
            assert (peer.read(at, "<I"), peer.read(at + 4, "<I")) == (taken, position)
        assert peer.read(USED + 2, "<H") == (available - count) % WRAP
        assert vring.publish()
        assert peer.read(USED + 2, "<H") == available


@given(begin=st.integers(0, WRAP - 1), foreign=st.integers(0, WRAP - 1))
def test_a_used_index_that_somebody_else_wrote_is_found_before_ours(
    vring: ctypes.CDLL, begin: int, foreign: int
) -> None:
    peer = Peer(vring, begin=begin)
    assume(foreign != begin)
    peer.write(USED + 2, "<H", foreign)
    assert vring.publish()  # nothing was completed: nothing is written
    vring.complete(0, 0)
    assert not vring.publish()
    assert peer.read(USED + 2, "<H") == foreign


@given(begin=st.integers(0, WRAP - 1), count=st.integers(1, RING), wish=st.integers(-40, 40))
def test_the_peer_is_interrupted_when_its_position_is_passed(
    vring: ctypes.CDLL, begin: int, count: int, wish: int
) -> None:
    peer = Peer(vring, begin=begin)
    peer.write(AVAIL + 4 + 2 * RING, "<H", (begin + wish) % WRAP)
    for _ in range(count):
        vring.complete(0, 0)
    assert vring.publish()
    assert bool(vring.wants_ring()) == (0 <= wish < count)
    assert not vring.wants_ring()  # once is enough


def test_without_event_indices_the_flags_count(vring: ctypes.CDLL) -> None:
    peer = Peer(vring, event_idx=False)
    vring.complete(0, 0)
    assert vring.publish()
    assert vring.wants_ring()
    peer.write(AVAIL, "<H", 1)
    assert not vring.wants_ring()
    vring.quiet()
    assert peer.read(USED, "<H") == 1
    vring.ask(5)
    assert peer.read(USED, "<H") == 0
    assert peer.read(USED + 4 + 8 * RING, "<H") == 0


@given(position=st.integers(0, WRAP - 1))
def test_a_wish_to_be_kicked_stands_behind_the_used_ring(vring: ctypes.CDLL, position: int) -> None:
    peer = Peer(vring)
    vring.quiet()
    vring.ask(position)
    assert peer.read(USED + 4 + 8 * RING, "<H") == position
    assert peer.read(USED, "<H") == 0


# Section: interrupts that the peer did not hear


def completed(vring: ctypes.CDLL, count: int) -> None:
    """Complete and publish buffers; the peer's interrupt for them is lost."""
    for _ in range(count):
        vring.complete(0, 0)
    assert vring.publish()
    vring.wants_ring()


@given(begin=st.integers(0, WRAP - 1), count=st.integers(1, RING))
def test_an_interrupt_that_the_peer_did_not_hear_is_repeated_until_it_does(
    vring: ctypes.CDLL, begin: int, count: int
) -> None:
    peer = Peer(vring, begin=begin)
    peer.write(AVAIL, "<HH", 0, begin)
    peer.write(AVAIL + 4 + 2 * RING, "<H", begin)
    assert not vring.is_unheard()
    completed(vring, count)
    assert not vring.is_unheard()  # it has had no time yet
    assert vring.is_unheard()
    assert vring.is_unheard()
    # It has heard, and asks for the next one, but posts nothing.
    peer.write(AVAIL + 4 + 2 * RING, "<H", (begin + count) % WRAP)
    assert not vring.is_unheard()


@given(begin=st.integers(0, WRAP - 1))
def test_a_peer_that_posts_buffers_is_awake(vring: ctypes.CDLL, begin: int) -> None:
    peer = Peer(vring, begin=begin)
    peer.write(AVAIL + 4 + 2 * RING, "<H", begin)
    completed(vring, 1)
    for posted in range(1, RING):
        peer.write(AVAIL, "<HH", 0, (begin + posted) % WRAP)
        assert not vring.is_unheard()
    assert vring.is_unheard()


def test_completions_one_by_one_do_not_hide_that_nobody_hears_of_them(vring: ctypes.CDLL) -> None:
    peer = Peer(vring)
    peer.write(AVAIL + 4 + 2 * RING, "<H", 0)
    vring.is_unheard()
    heard = []
    for _ in range(4):
        completed(vring, 1)
        heard.append(vring.is_unheard())
    assert heard == [0, 1, 1, 1]


def test_without_event_indices_an_interrupt_is_repeated_once(vring: ctypes.CDLL) -> None:
    peer = Peer(vring, event_idx=False)
    assert not vring.is_unheard()
    completed(vring, 1)
    assert [vring.is_unheard() for _ in range(4)] == [0, 1, 0, 0]
    completed(vring, 1)
    peer.write(AVAIL, "<H", 1)
    assert [vring.is_unheard() for _ in range(3)] == [0, 0, 0]


# Section: when the transmit queue stops and starts again

sizes = st.integers(0, 15).map(lambda exponent: 1 << exponent)


def marks(vring: ctypes.CDLL) -> tuple[int, int]:
    """Return with how many buffers the queue stops, and starts again."""
    return vring.stop_mark(), vring.wake_mark()


@given(size=sizes, heads=st.sampled_from([1, 44]), waiting=st.integers(0, 1 << 15))
def test_marks_are_within_the_ring_and_a_peer_that_posts_less_is_not_waited_for(
    vring: ctypes.CDLL, size: int, heads: int, waiting: int
) -> None:
    waiting = min(waiting, size)
    vring.set_marks(size, heads)
    full = stop, wake = marks(vring)
    assert 1 <= stop <= wake <= size
    vring.lower_marks(waiting)
    assert marks(vring) == (min(stop, max(waiting, 1), wake), min(wake, max(waiting, 1)))
    vring.raise_marks(waiting)
    assert marks(vring) <= full
    assert marks(vring)[1] <= max(waiting, 1)


@given(size=sizes, heads=st.sampled_from([1, 44]), stalls=st.lists(st.integers(0, 1 << 15), min_size=1))
def test_a_peer_that_fills_its_ring_again_finds_the_marks_of_the_start(
    vring: ctypes.CDLL, size: int, heads: int, stalls: list[int]
) -> None:
    vring.set_marks(size, heads)
    full = marks(vring)
    for waiting in stalls:
        vring.lower_marks(min(waiting, size))
    vring.raise_marks(size)
    assert marks(vring) == full


def test_marks_rise_with_what_the_peer_is_seen_to_post(vring: ctypes.CDLL) -> None:
    vring.set_marks(1024, 44)
    assert marks(vring) == (44, 300)
    vring.lower_marks(0)
    assert marks(vring) == (1, 1)
    for waiting, expected in ((1, (1, 1)), (20, (20, 20)), (19, (20, 20)), (100, (44, 100)), (1024, (44, 300))):
        vring.raise_marks(waiting)
        assert marks(vring) == expected


# Section: who may touch a ring


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_two_cpus_that_poll_in_turn_lose_no_wake_up_and_touch_no_ring_that_is_not_theirs(
    tmp_path: Path, sanitizer: str
) -> None:
    program = tmp_path / "polls"
    # The barriers are fences, which the thread sanitizer does not know and does not need: what it is to see is who
    # touches the driver's own fields, and NAPI's state orders these.
    flags = ("-pthread", "-Wno-tsan", f"-fsanitize={sanitizer}")
    problem = compile_c(*flags, "-o", str(program), "polls.c")
    if "cannot find" in problem:
        pytest.skip(f"no library for -fsanitize={sanitizer}")
    assert problem == ""
    for seed in (1, 2, 3):
        run_sanitized(program, "20000", str(seed))
