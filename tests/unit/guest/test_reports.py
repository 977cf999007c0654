"""What an agent prints becomes a bounded report or an error, whatever it is."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpctl.errors import VpctlError
from vpctl.guest.reports import Report, ReportError, decode
from vpctl.guest.ssh import Completed
from vpctl.guest.traffic import counters_disagree, judge

KEYS = st.sampled_from([*Report.__annotations__, "protocol", "size", "duplicate", "tx_packets", "other"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def assert_bounded(value: Any) -> None:
    """What was decoded has plain types, and numbers that fit into 64 bits."""
    if isinstance(value, dict):
        for inner in value.values():
            assert_bounded(inner)
    elif isinstance(value, list):
        assert len(value) <= 1000
        for inner in value:
            assert_bounded(inner)
    elif isinstance(value, str):
        assert len(value) <= 1000
    else:
        assert value is None or -(2**63) <= value < 2**63


@given(st.text() | JSON.map(json.dumps) | st.binary().map(lambda said: said.decode(errors="replace")))
@example("[" * 200_000)
@example('{"other":' * 200_000)
@example('{"other":' + "[" * 60_000)
@example('{"sent":' + "9" * 5000 + "}")
@example('{"rtt_ms":1e999}')
@example("\ud800")
@example('{"error":"\\ud800"}')
def test_any_output_is_a_report_or_an_error_of_ours(said: str) -> None:
    try:
        report = decode(said)
    except VpctlError as error:
        assert isinstance(error, ReportError)
        assert len(error.message) < 2200
    else:
        assert set(report) <= set(Report.__annotations__)
        assert_bounded(report)


@given(JSON.map(json.dumps), JSON.map(json.dumps))
def test_any_two_reports_are_judged(sent: str, received: str) -> None:
    done = [Completed(status=0, stdout=said, stderr="") for said in (sent, received)]
    [test] = judge("a", "b", "frame:60x8", *done)
    assert not test.ok


def test_a_size_that_is_text_takes_no_memory() -> None:
    """Multiplied by a number it would be as much text as the guest likes."""
    said = json.dumps({"tests": [{"protocol": "frame", "size": "A", "sent": 2 * 10**8}], "counters": {}})
    tracemalloc.start()
    try:
        with pytest.raises(ReportError):
            decode(said)
        [test] = judge("a", "b", "frame:60x8", *(Completed(status=0, stdout=said, stderr="") for _ in range(2)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert not test.ok


def test_the_last_line_is_the_report_and_other_keys_are_left_out() -> None:
    assert decode('ready\nnoise\n{"ok": true, "interface": "lan0", "rtt_ms": null}\n\n') == {
        "ok": True,
        "rtt_ms": None,
    }


def test_counters_of_64_bits_are_added_up() -> None:
    most = 2**63 - 1
    sent: Report = {
        "tests": [{"protocol": "frame", "size": most, "sent": most}],
        "counters": {"tx_packets": 1, "tx_bytes": 1},
    }
    assert counters_disagree(sent, sent).startswith("the sender's interface counted 1 packets")
