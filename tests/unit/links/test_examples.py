"""Every example is a topology that this version can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made import made_run
from vpctl.links import LINK_KINDS
from vpctl.plan.link import plug_steps
from vpctl.plan.run import run_from_json, run_to_json
from vpctl.rundir import RunDir
from vpctl.topology.load import load

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))
RUNDIR = RunDir(name="x", run=Path("/run/x"), state=Path("/state/x"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads_with_the_kinds_there_are_and_can_be_planned(path: Path) -> None:
    kinds = {name: kind.rules for name, kind in LINK_KINDS.items()}
    topology = load(path.read_bytes(), file=path.name, kinds=kinds, environ={}, base=path.parent)
    assert topology.name == path.stem, "an example is named after its file"
    run = made_run(topology)
    assert run_from_json(run_to_json(run)) == run
    for link in topology.links:
        assert len(plug_steps(run, link, 1, first=link.endpoints[0].vm, rundir=RUNDIR)) == 2


def test_the_examples_of_the_guide_are_there() -> None:
    assert {"pair.yaml", "chain.yaml"} <= {path.name for path in EXAMPLES}
