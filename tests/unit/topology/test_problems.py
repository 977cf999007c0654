"""How problems are told, and how many of them."""

from __future__ import annotations

from tests.unit.topology.telling import PAIR, problems
from vpctl.topology.problems import MOST_PROBLEMS


def test_more_problems_than_are_shown_are_said_to_be() -> None:
    many = "".join(f"  x{number}: {{zzz: 1}}\n" for number in range(MOST_PROBLEMS + 50))
    found = problems(PAIR.replace("  vm1: {}\n", "  vm1: {}\n" + many))
    assert len(found) == MOST_PROBLEMS
    assert "there may be others" in found[-1][1]
