"""What is said to a QEMU: messages as its specification has them, in the order that it survives, and ids."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.broker.ivshmem.message import REGION, SIZE, Message, Peer, decode, greeting


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_message_is_eight_bytes_little_endian_and_signed(number: int) -> None:
    data = Message(number=number).encode()
    assert len(data) == SIZE
    assert data == number.to_bytes(8, "little", signed=True)
    assert decode(data) == number


@given(st.binary(max_size=20).filter(lambda data: len(data) != SIZE))
def test_what_is_not_eight_bytes_is_no_message(data: bytes) -> None:
    with pytest.raises(struct.error):
        decode(data)


def test_the_peers_come_before_the_region_and_the_own_interrupts_after_it() -> None:
    peer, host = Peer(id=7, eventfds=(21, 22, 23)), Peer(id=1, eventfds=(31,))
    said = greeting(Peer(id=6, eventfds=(11, 12, 13)), [peer, host], 40)
    assert [(message.number, message.fd) for message in said] == [
        *[(0, None), (6, None), (7, 21), (7, 22), (7, 23), (1, 31)],
        *[(REGION, 40), (6, 11), (6, 12), (6, 13)],
    ]
