"""Rows and pairs, as every workload has them."""

from __future__ import annotations

from typing import Any, cast

from tests.made import made_link
from vpctl.bench.counters import GuestEnd
from vpctl.bench.workload import Pair, Row


class End:
    def __init__(self, vm: str) -> None:
        self.vm = vm


def test_a_pair_is_directed_by_its_source() -> None:
    first, second = (cast(GuestEnd, cast(Any, End(vm))) for vm in ("vm1", "vm2"))
    pair = Pair(link=made_link("lan0", "vm1", "vm2"), first=first, second=second)
    assert pair.directed("vm1") == (first, second)
    assert pair.directed("vm2") == (second, first)


def test_a_row_is_called_by_its_workload_its_variant_and_its_way() -> None:
    assert str(Row(workload="tcp", source="a", target="b")) == "tcp a to b"
    assert str(Row(workload="udp", source="a", target="b", variant="64B")) == "udp 64B a to b"
