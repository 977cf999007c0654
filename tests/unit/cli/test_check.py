"""How a check is shown."""

from __future__ import annotations

from tests.unit.cli.view.shown import shown
from vpctl.cli import check


def test_a_check_names_the_sizes_that_failed() -> None:
    base = {"from": "a", "to": "b", "protocol": "udp", "sent": 4, "received": 4, "corrupt": 0, "ok": True}
    bad = {**base, "size": 65507, "received": 3, "ok": False}
    tests = [{**base, "size": 1}, bad, {**base, "protocol": "tcp", "size": 65536, "sent": 1, "received": 1}]
    rows = [
        line.split() for line in shown(check.check_table({"links": [{"link": "lan0", "tests": tests}]})).splitlines()
    ]
    assert rows[1] == [
        *["lan0", "a", "b", "udp", "1..65507", "8", "7", "0", "failed", "65507", "B:", "lost", "or", "corrupt"]
    ]
    assert rows[2] == [*["lan0", "a", "b", "tcp", "65536", "1", "1", "0", "ok"]]
