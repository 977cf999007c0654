"""The vhost-user protocol byte for byte, and a parser that is fed anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import vhost_user_messages
from vpctl.broker.vhost_user import message as vhost_user
from vpctl.broker.vhost_user.message import (
    LARGEST_PAYLOAD,
    UNDERSTOOD,
    MemoryRegion,
    Message,
    Parser,
    Payload,
    ProtocolError,
    RefusedError,
    Request,
    RingAddress,
    RingFd,
    RingState,
    decode,
)

RAM = MemoryRegion(address=0, size=0x10000000, user=0x7FB10EA00000, offset=0)
HIGH = MemoryRegion(address=0x100000000, size=0x80000000, user=0x7FB18EA00000, offset=0x80000000)

REGION = "0000000000000000 0000001000000000 0000a00eb17f0000 0000000000000000"
HIGH_REGION = "0000000001000000 0000008000000000 0000a08eb17f0000 0000008000000000"

SAID = [
    # request, flags, size | payload                                            what it says, how many descriptors
    ("01000000 01000000 00000000", None, 0),
    ("02000000 01000000 08000000 83bb007001000000", 0x17000BB83, 0),
    ("03000000 01000000 00000000", None, 0),
    ("04000000 01000000 00000000", None, 0),
    ("05000000 09000000 48000000 02000000 00000000" + REGION + HIGH_REGION, (RAM, HIGH), 2),
    ("08000000 01000000 08000000 01000000 00040000", RingState(index=1, value=1024), 0),
    (
        "09000000 01000000 28000000 01000000 00000000"
        "0000e111b17f0000 8048e111b17f0000 0040e111b17f0000 0010e10200000000",
        RingAddress(index=1, flags=0, desc=0x7FB111E10000, used=0x7FB111E14880, avail=0x7FB111E14000, log=0x2E11000),
        0,
    ),
    ("0a000000 01000000 08000000 00000000 ffff0000", RingState(index=0, value=0xFFFF), 0),
    ("0b000000 01000000 08000000 01000000 00000000", RingState(index=1, value=0), 0),
    ("0c000000 01000000 08000000 0300000000000000", RingFd(index=3, has_fd=True), 1),
    ("0d000000 01000000 08000000 0201000000000000", RingFd(index=2, has_fd=False), 0),
    ("0e000000 01000000 08000000 0000000000000000", RingFd(index=0, has_fd=True), 1),
    ("0f000000 01000000 00000000", None, 0),
    ("10000000 01000000 08000000 0980000000000000", 0x8009, 0),
    ("11000000 01000000 00000000", None, 0),
    ("12000000 09000000 08000000 01000000 01000000", RingState(index=1, value=1), 0),
    ("22000000 01000000 00000000", None, 0),
    ("24000000 01000000 00000000", None, 0),
    ("25000000 09000000 28000000 0000000000000000" + REGION, (RAM,), 1),
    ("26000000 09000000 28000000 0000000000000000" + REGION, (RAM,), 0),
]


def parsed(data: bytes, fds: tuple[int, ...] = ()) -> Message:
    """Parse one message as it is read."""
    parser = Parser()
    assert parser.feed(data[:12], fds) is None or len(data) == 12
    message = parser.feed(data[12:]) if len(data) > 12 else Parser().feed(data, fds)
    assert message is not None
    return message


def test_every_request_that_is_understood_is_among_these() -> None:
    assert {bytes.fromhex(data)[0] for data, _, _ in SAID} == UNDERSTOOD


@pytest.mark.parametrize(
    ("data", "payload", "fds"), SAID, ids=[str(Request(int(data[:2], 16)).name) for data, _, _ in SAID]
)
def test_a_message_is_read_from_its_bytes_and_is_these_bytes(data: str, payload: Payload, fds: int) -> None:
    given_ = bytes.fromhex(data)
    message = parsed(given_, tuple(range(100, 100 + fds)))
    assert decode(message) == payload
    assert message.encode() == given_
    assert message.fds == tuple(range(100, 100 + fds))
    assert message.wants_reply == (given_[4] == 9)


@pytest.mark.parametrize(("data", "payload", "fds"), SAID)
def test_a_message_of_another_size_or_with_other_descriptors_is_refused(
    data: str, payload: Payload, fds: int
) -> None:
    message = parsed(bytes.fromhex(data), tuple(range(fds)))
    for change in (message.payload + b"x", message.payload[:-1] if message.payload else b"xy"):
        with pytest.raises(RefusedError, match=message.name):
            decode(Message(request=message.request, flags=1, payload=change, fds=message.fds))
    for count in {0, 1, 2, 3} - {fds}:
        other = Message(request=message.request, flags=1, payload=message.payload, fds=tuple(range(count)))
        if message.request == Request.REM_MEM_REG:
            assert decode(other) == payload, "a descriptor may be with it"
        else:
            with pytest.raises(RefusedError, match=rf"{message.name} has \d descriptors"):
                decode(other)


def test_what_is_not_understood_is_refused_by_its_name_or_number() -> None:
    for request, name in (
        (Request.SET_LOG_BASE, "SET_LOG_BASE"),
        (Request.GET_CONFIG, "GET_CONFIG"),
        (77, "request 77"),
    ):
        with pytest.raises(RefusedError, match=f"{name} is not understood"):
            decode(Message(request=request, flags=1, payload=b""))


def test_a_region_that_could_not_be_anywhere_is_refused() -> None:
    for bad in (
        MemoryRegion(address=0, size=0, user=0, offset=0),
        MemoryRegion(address=(1 << 64) - 1, size=2, user=0, offset=0),
        MemoryRegion(address=0, size=2, user=(1 << 64) - 1, offset=0),
        MemoryRegion(address=0, size=1 << 63, user=0, offset=1 << 63 | 1),
    ):
        payload = vhost_user_messages.region_payload(bad)
        with pytest.raises(RefusedError, match="has a region of"):
            decode(Message(request=Request.ADD_MEM_REG, flags=1, payload=payload, fds=(1,)))
    table = vhost_user_messages.table_payload([RAM] * 9)
    with pytest.raises(RefusedError, match="9 regions, more than 8"):
        decode(Message(request=Request.SET_MEM_TABLE, flags=1, payload=table, fds=(1,) * 9))


def test_bits_beside_a_rings_number_are_refused() -> None:
    payload = vhost_user_messages.number_payload(0x200)
    with pytest.raises(RefusedError, match="SET_VRING_KICK has unknown bits: 0x200"):
        decode(Message(request=Request.SET_VRING_KICK, flags=1, payload=payload))


def test_replies_are_these_bytes() -> None:
    message = Message(request=Request.GET_FEATURES, flags=1, payload=b"")
    assert vhost_user.number_reply(message, 0x17000BB83) == bytes.fromhex(
        "01000000 05000000 08000000 83bb007001000000"
    )
    message = Message(request=Request.SET_MEM_TABLE, flags=9, payload=b"")
    assert vhost_user.number_reply(message, 1) == bytes.fromhex("05000000 05000000 08000000 0100000000000000")
    message = Message(request=Request.GET_VRING_BASE, flags=1, payload=b"")
    state = RingState(index=1, value=0xABCD)
    assert vhost_user.state_reply(message, state) == bytes.fromhex("0b000000 05000000 08000000 01000000 cdab0000")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("01000000 00000000 00000000", "request 1 is of version 0, not 1"),
        ("01000000 02000000 00000000", "request 1 is of version 2, not 1"),
        ("01000000 05000000 00000000", "request 1 says that it is a reply"),
        ("01000000 01000000 01100000", "request 1 has 4097 bytes"),
        ("ff000000 01000000 ffffffff", "request 255 has 4294967295 bytes"),
    ],
)
def test_a_header_after_which_nothing_can_be_trusted_ends_it(header: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        Parser().feed(bytes.fromhex(header))


def test_more_descriptors_than_a_message_can_have_end_it_and_are_given_back() -> None:
    parser = Parser()
    assert parser.feed(b"\x05", [1, 2, 3, 4, 5]) is None
    with pytest.raises(ProtocolError, match="9 descriptors"):
        parser.feed(b"\0", [6, 7, 8, 9])
    assert parser.drop() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert parser.drop() == []


def test_a_piece_that_reaches_into_the_next_message_is_nobodys() -> None:
    with pytest.raises(ProtocolError, match="13 bytes where 12 were asked for"):
        Parser().feed(bytes(13))


MESSAGES = st.lists(
    st.tuples(
        st.integers(0, (1 << 32) - 1), st.sampled_from([1, 9, 0xF1]), st.binary(max_size=80), st.integers(0, 8)
    ),
    max_size=6,
)


@given(MESSAGES, st.data())
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[tuple[int, int, bytes, int]], data: st.DataObject
) -> None:
    parser, number = Parser(), 0
    for request, flags, payload, count in messages:
        fds = list(range(number, number + count))
        number += count
        wanted = Message(request=request, flags=flags, payload=payload, fds=tuple(fds))
        rest, seen = wanted.encode(), None
        while rest:
            assert seen is None
            size = data.draw(st.integers(1, min(parser.wanted, len(rest))))
            seen = parser.feed(rest[:size], fds)
            rest, fds = rest[size:], []
        assert seen == wanted
    assert parser.drop() == []


@given(st.integers(0, 45) | st.integers(0, (1 << 32) - 1), st.binary(max_size=300), st.integers(0, 8))
def test_any_payload_is_understood_or_refused(request_: int, payload: bytes, fds: int) -> None:
    message = Message(request=request_, flags=1, payload=payload, fds=tuple(range(fds)))
    try:
        decode(message)
    except RefusedError as error:
        assert message.name in str(error)
    else:
        assert request_ in UNDERSTOOD
        assert len(payload) <= LARGEST_PAYLOAD
