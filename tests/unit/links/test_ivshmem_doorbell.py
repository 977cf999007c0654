"""Links of kind ivshmem-doorbell: what its memory may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made import PAIR
from tests.unit.links.made import link_of
from vpctl.errors import TopologyError
from vpctl.links import LINK_KINDS
from vpctl.topology.load import load


@pytest.mark.parametrize(
    ("size", "wrong"),
    [
        ("16M", None),
        ("1M", None),
        ("64G", None),
        ("24M", "25165824 is not a power of two, such as 16777216 or 33554432"),
        ("512K", "is not between 1M and 64G"),
        ("128G", "is not between 1M and 64G"),
    ],
)
def test_the_size_of_a_shared_memory_is_one_that_qemu_survives(size: str, wrong: str | None) -> None:
    text = "version: 1\nname: t\nvms: {a: {}, b: {}}\nlinks:\n"
    text += f"  shm0: {{kind: ivshmem-doorbell, endpoints: [a, b], size: {size}}}\n"
    kinds = {name: kind.rules for name, kind in LINK_KINDS.items()}
    if wrong is None:
        load(text, file="t.yaml", kinds=kinds, environ={}, base=Path("/"))
        return
    with pytest.raises(TopologyError) as caught:
        load(text, file="t.yaml", kinds=kinds, environ={}, base=Path("/"))
    (problem,) = caught.value.problems
    assert wrong in problem.message
    assert str(problem.where).startswith("t.yaml:5:")


def test_a_shared_memory_that_is_too_small_for_its_queues_is_refused() -> None:
    check = LINK_KINDS["ivshmem-doorbell"].rules.check
    assert check is not None
    assert check(link_of(queues=1, options={"size": 1 << 20}), PAIR) is None
    assert (
        check(link_of(queues=2, options={"size": 1 << 20}), PAIR) == "`size` is too small for 2 queues: 2M at least"
    )
    assert check(link_of(queues=16, options={"size": 16 << 20}), PAIR) is None
