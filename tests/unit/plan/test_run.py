"""A run comes back from JSON as it was."""

from __future__ import annotations

import json

import pytest

from tests.made import PAIR, made_run, made_topology
from tests.unit.plan.runs import MIXED
from vpctl.plan.run import run_from_json, run_to_json
from vpctl.topology.model import Topology


@pytest.mark.parametrize("topology", [PAIR, MIXED, made_topology()])
def test_a_run_comes_back_from_json_as_it_was(topology: Topology) -> None:
    run = made_run(topology, keep=True, stage_seconds={"ssh": 7.5})
    assert run_from_json(json.loads(json.dumps(run_to_json(run)))) == run
