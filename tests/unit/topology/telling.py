"""The problems of a file."""

from __future__ import annotations

import pytest

from tests.unit.topology.loading import loaded
from vpctl.errors import TopologyError

PAIR = """version: 1
name: c07
vms:
  vm1: {}
  vm2: {}   # the pair
links:
  lan0: {kind: wire, endpoints: [vm1, vm2]}
"""


def problems(text: str) -> list[tuple[int, str, str | None]]:
    with pytest.raises(TopologyError) as caught:
        loaded(text)
    return [(problem.line, problem.message, problem.hint) for problem in caught.value.problems]
