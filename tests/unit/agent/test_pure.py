"""The agent's pure parts: patterns, plans, the table of links, the heartbeat's line."""

from __future__ import annotations

import ctypes

import pytest

from tests.unit.agent import wire
from vpctl.guest.heartbeat import EndState, Heartbeat, LinkEnd, parse

OK, CORRUPT, FOREIGN = 0, 1, 2


class Message(ctypes.Structure):
    """`struct message` of pattern.h."""

    _fields_ = (("seed", ctypes.c_uint32), ("test", ctypes.c_uint32), ("number", ctypes.c_uint32))


class Test(ctypes.Structure):
    """`struct test` of plan.h."""

    __test__ = False
    _fields_ = (("protocol", ctypes.c_int), ("size", ctypes.c_uint32), ("count", ctypes.c_uint32))


class Plan(ctypes.Structure):
    """`struct plan` of plan.h."""

    _fields_ = (("test", Test * 32), ("count", ctypes.c_size_t))


class Link(ctypes.Structure):
    """`struct link` of links.h."""

    _fields_ = (
        ("mac", ctypes.c_uint8 * 6),
        ("name", ctypes.c_char * 16),
        ("address", ctypes.c_uint32),
        ("prefix", ctypes.c_uint),
        ("mtu", ctypes.c_uint),
        ("peer", ctypes.c_uint32),
        ("index", ctypes.c_int),
        ("up", ctypes.c_bool),
        ("carrier", ctypes.c_bool),
        ("readdressed", ctypes.c_bool),
        ("moved", ctypes.c_bool),
        ("name_now", ctypes.c_char * 16),
        ("mac_now", ctypes.c_uint8 * 6),
        ("master", ctypes.c_char * 16),
        ("echoes", ctypes.c_int),
        ("silent", ctypes.c_uint),
        ("received", ctypes.c_uint64),
    )


class Links(ctypes.Structure):
    """`struct links` of links.h."""

    _fields_ = (("link", Link * 64), ("count", ctypes.c_size_t))


def fill(pure: ctypes.CDLL, seed: int, test: int, number: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    pure.pattern_fill(buffer, ctypes.c_size_t(size), ctypes.byref(Message(seed, test, number)))
    return buffer.raw


def check(pure: ctypes.CDLL, content: bytes, size: int, seed: int, test: int) -> tuple[int, int]:
    found = Message(seed, test, 0)
    verdict = pure.pattern_check(content, ctypes.c_size_t(len(content)), ctypes.c_size_t(size), ctypes.byref(found))
    return verdict, found.number


SIZES = [1, 2, 7, 8, 19, 20, 21, 27, 28, 46, 64, 1500, 65507]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_is_what_the_format_says_and_is_found_intact(pure: ctypes.CDLL, size: int) -> None:
    content = fill(pure, 0xDEADBEEF, 3, 200, size)
    assert content == wire.message(0xDEADBEEF, 3, 200, size)
    assert check(pure, content, size, 0xDEADBEEF, 3) == (OK, 200)


@pytest.mark.parametrize("size", [28, 46, 333])
def test_every_single_bit_that_flips_is_found(pure: ctypes.CDLL, size: int) -> None:
    content = fill(pure, 7, 1, 4, size)
    for position in range(size):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        verdict, _ = check(pure, bytes(damaged), size, 7, 1)
        # A damaged seed is taken for another run's message: it is not counted, so it shows as a loss.
        assert verdict == (FOREIGN if 4 <= position < 8 else CORRUPT), position


def test_messages_of_another_run_test_or_length_are_told_apart(pure: ctypes.CDLL) -> None:
    assert check(pure, wire.message(8, 1, 0, 60), 60, 7, 1)[0] == FOREIGN
    assert check(pure, wire.message(7, 2, 0, 60), 60, 7, 1)[0] == CORRUPT
    assert check(pure, wire.message(7, 1, 0, 60)[:59], 60, 7, 1)[0] == CORRUPT
    assert check(pure, wire.message(7, 1, 0, 60) + b"x", 60, 7, 1)[0] == CORRUPT
    assert check(pure, b"", 60, 7, 1)[0] == CORRUPT


def test_swapped_parts_of_two_messages_are_found(pure: ctypes.CDLL) -> None:
    first, second = wire.message(7, 1, 0, 1500), wire.message(7, 1, 1, 1500)
    assert check(pure, first[:800] + second[800:], 1500, 7, 1)[0] == CORRUPT
    shifted = first[:800] + first[808:] + first[800:808]
    assert check(pure, shifted, 1500, 7, 1)[0] == CORRUPT


def parse_plan(pure: ctypes.CDLL, text: str) -> list[tuple[int, int, int]] | str:
    plan = Plan()
    problem = pure.plan_parse(text.encode(), ctypes.byref(plan))
    if problem is not None:
        return str(problem.decode())
    return [(test.protocol, test.size, test.count) for test in plan.test[: plan.count]]


def test_a_plan_is_read(pure: ctypes.CDLL) -> None:
    text = "frame:60x8,frame:1514x8,udp:1x4,udp:65507x4,tcp:65536x1,frame:65549x1"
    expected = [(0, 60, 8), (0, 1514, 8), (1, 1, 4), (1, 65507, 4), (2, 65536, 1), (0, 65549, 1)]
    assert parse_plan(pure, text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "PROTOCOL:SIZExCOUNT"),
        ("udp:1x1,", "PROTOCOL:SIZExCOUNT"),
        ("udp:1", "PROTOCOL:SIZExCOUNT"),
        ("udp:1x1x1", "PROTOCOL:SIZExCOUNT"),
        ("udp:1x1 ", "PROTOCOL:SIZExCOUNT"),
        ("sctp:1x1", "frame, udp or tcp"),
        ("frame:59x1", "size"),
        ("frame:65550x1", "size"),
        ("udp:0x1", "size"),
        ("udp:65508x1", "size"),
        ("tcp:1048577x1", "size"),
        ("udp:1x0", "count"),
        ("udp:1x257", "count"),
        ("udp:99999999999999999999x1", "PROTOCOL:SIZExCOUNT"),
        (",".join(["udp:1x1"] * 33), "too many"),
        ("u" * 100, "PROTOCOL:SIZExCOUNT"),
    ],
)
def test_a_wrong_plan_is_refused_with_the_reason(pure: ctypes.CDLL, text: str, problem: str) -> None:
    found = parse_plan(pure, text)
    assert isinstance(found, str)
    assert problem in found


def parse_links(pure: ctypes.CDLL, text: str) -> tuple[int, Links]:
    links = Links()
    return pure.links_parse(text.encode(), ctypes.byref(links)), links


def test_the_table_of_links_is_read(pure: ctypes.CDLL) -> None:
    text = "52:56:00:00:00:10 lan0 10.77.0.1/30 1500\n\n# a comment\n52:56:00:00:00:11 shm-1 10.0.0.9/8 65535"
    line, links = parse_links(pure, text)
    assert (line, links.count) == (0, 2)
    first, second = links.link[0], links.link[1]
    assert (bytes(first.mac).hex(), first.name, first.prefix, first.mtu) == ("525600000010", b"lan0", 30, 1500)
    assert (second.name, second.prefix, second.mtu, second.index) == (b"shm-1", 8, 65535, 0)
    assert second.address == int.from_bytes(bytes([10, 0, 0, 9]), "little")


@pytest.mark.parametrize(
    "line",
    [
        "lan0",
        "52:56:00:00:00 lan0 10.77.0.1/30 1500",
        "52:56:00:00:00:zz lan0 10.77.0.1/30 1500",
        "52:56:00:00:00:10 lan0 10.77.0.1 1500",
        "52:56:00:00:00:10 lan0 10.77.0.256/30 1500",
        "52:56:00:00:00:10 lan0 10.77.0.1/33 1500",
        "52:56:00:00:00:10 lan0 10.77.0.1/30 67",
        "52:56:00:00:00:10 lan0 10.77.0.1/30 65536",
        "52:56:00:00:00:10 lan0 10.77.0.1/30 1500 more",
        "52:56:00:00:00:10 a-name-that-is-too-long 10.77.0.1/30 1500",
        "x" * 300,
    ],
)
def test_a_wrong_line_of_the_table_is_named_by_its_number(pure: ctypes.CDLL, line: str) -> None:
    good = "52:56:00:00:00:10 lan0 10.77.0.1/30 1500\n"
    assert parse_links(pure, good + line)[0] == 2


def test_a_table_with_too_many_links_is_refused(pure: ctypes.CDLL) -> None:
    line = "52:56:00:00:00:10 lan0 10.77.0.1/30 1500\n"
    assert parse_links(pure, line * 64)[0] == 0
    assert parse_links(pure, line * 65)[0] == 65


def format_beat(pure: ctypes.CDLL, links: Links, size: int = 3072) -> str:
    line = ctypes.create_string_buffer(size)
    length = pure.heartbeat_format(
        line, ctypes.c_size_t(size), ctypes.c_uint64(7), ctypes.c_uint64(1 << 40), b"boot", ctypes.byref(links)
    )
    return line.raw[:length].decode()


def test_a_heartbeat_names_the_links_that_are_set_up_and_the_host_understands_it(pure: ctypes.CDLL) -> None:
    text = "".join(f"52:56:00:00:00:1{i} lan{i} 10.77.{i}.1/30 1500\n" for i in range(6))
    _, links = parse_links(pure, text)
    assert format_beat(pure, links) == "vpctl1 seq=7 uptime_ms=1099511627776 boot_id=boot links=\n"
    for number in (0, 2, 3, 4, 5):
        links.link[number].index = 4 + number
        links.link[number].up = number != 2
        links.link[number].carrier = number not in (2, 3)
        links.link[number].mac_now = links.link[number].mac
    links.link[4].readdressed = True
    links.link[5].silent = 31
    said = {
        "lan0": LinkEnd(),
        "lan2": LinkEnd(state=EndState.DOWN),
        "lan3": LinkEnd(state=EndState.NO_CARRIER),
        "lan4": LinkEnd(state=EndState.READDRESSED),
        "lan5": LinkEnd(silent=31),
    }
    [beat] = parse(format_beat(pure, links))
    assert beat == Heartbeat(seq=7, uptime_ms=1 << 40, boot_id="boot", links=said)
    assert beat.end("lan1").state is EndState.ABSENT


def test_a_heartbeat_tells_what_users_have_made_of_an_interface(pure: ctypes.CDLL) -> None:
    text = "".join(f"52:56:00:00:00:1{i} lan{i} 10.77.{i}.1/30 1500\n" for i in range(4))
    _, links = parse_links(pure, text)
    for number in (0, 1, 3):
        link = links.link[number]
        link.index, link.up, link.carrier, link.mac_now, link.name_now = number + 1, True, True, link.mac, link.name
    links.link[0].master = b"bond0"
    links.link[1].name_now, links.link[1].mac_now[5] = b"a,b;c=d\xff ", 0x99
    links.link[2].moved = True
    [beat] = parse(format_beat(pure, links))
    assert beat.links == {
        "lan0": LinkEnd(master="bond0"),
        "lan1": LinkEnd(name="a?b?c?d??", mac="52:56:00:00:00:99"),
        "lan2": LinkEnd(state=EndState.MOVED),
        "lan3": LinkEnd(),
    }
    assert [beat.end(f"lan{i}").use for i in range(4)] == [
        "port of bond0",
        "named a?b?c?d??, MAC 52:56:00:00:00:99",
        "in another network namespace",
        "",
    ]


def test_a_heartbeat_leaves_out_changes_before_it_is_cut(pure: ctypes.CDLL) -> None:
    _, links = parse_links(
        pure, "".join(f"52:56:00:00:00:10 a-link-of-15-{i:02d} 10.0.0.9/8 1500\n" for i in range(64))
    )
    for link in links.link:
        link.index, link.up, link.carrier, link.readdressed = 1, True, True, True
        link.name_now, link.master = b"a-name-of-15-ab", b"a-master-of-15a"
    [beat] = parse(format_beat(pure, links))
    assert len(beat.links) == 64
    assert beat.end("a-link-of-15-00").master == "a-master-of-15a"
    assert {end.state for end in beat.links.values()} == {EndState.READDRESSED}


def test_a_heartbeat_that_does_not_fit_is_cut_and_still_a_line(pure: ctypes.CDLL) -> None:
    _, links = parse_links(pure, "52:56:00:00:00:10 lan0 10.77.0.1/30 1500\n" * 64)
    for link in links.link:
        link.index = 1
    line = format_beat(pure, links, 100)
    assert len(line) <= 100
    assert line.endswith("\n")
