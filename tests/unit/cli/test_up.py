"""What `up` makes of links that carry no packets."""

from __future__ import annotations

from tests.unit.cli.view.shown import STATUS
from vpctl.cli import up


def test_up_says_which_link_carries_no_packets_and_ends_with_1() -> None:
    check = {"link": "lan0", "from": "vm1", "to": "vm2", "ok": False, "rtt_ms": None, "reason": "no reply"}
    result = up.up_result({**STATUS, "checks": [check]})
    assert result.exit_code == 1
    (error,) = result.errors
    assert error.message == "link `lan0`: no packets from `vm1` to `vm2`: no reply"
    assert error.hint == "vpctl check --link lan0"
