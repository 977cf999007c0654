"""How many interrupts that bring nothing a peer may raise."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.driver.conftest import library

BURST = 256
WRAP = 1 << 32

moments = st.one_of(st.integers(0, WRAP - 1), st.integers(WRAP - 1000, WRAP - 1))


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Every function of guard.h, on one allowance."""
    loaded = library(tmp_path_factory.mktemp("guard"), "guard.c")
    for name, arguments in {"set_allowance": 1, "earn": 1, "spend": 1, "left": 0}.items():
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_uint32] * arguments
        function.restype = ctypes.c_uint32
    return loaded


@given(began=moments, gaps=st.lists(st.integers(0, 20), min_size=1, max_size=600))
def test_useless_interrupts_are_a_burst_and_one_in_each_millisecond(
    guard: ctypes.CDLL, began: int, gaps: list[int]
) -> None:
    guard.set_allowance(began)
    now, allowed = began, 0
    for gap in gaps:
        now = (now + gap) % WRAP
        allowed += guard.spend(now)
        assert guard.left() <= BURST
    assert allowed <= BURST + sum(gaps)
    assert allowed == len(gaps) or allowed >= BURST


@given(began=moments, packets=st.lists(st.integers(1, 64), min_size=300, max_size=600))
def test_a_peer_whose_interrupts_are_no_more_than_its_packets_is_never_limited(
    guard: ctypes.CDLL, began: int, packets: list[int]
) -> None:
    guard.set_allowance(began)
    for count in packets:
        guard.earn(count)
        for _ in range(count):
            assert guard.spend(began)


@given(began=moments, pause=st.integers(0, WRAP - 1))
def test_what_is_left_never_grows_beyond_the_burst(guard: ctypes.CDLL, began: int, pause: int) -> None:
    guard.set_allowance(began)
    guard.earn(WRAP - 1)
    assert guard.left() == BURST
    assert guard.spend((began + pause) % WRAP)
    assert guard.left() == BURST - 1
