"""Random faults under traffic, over several kinds of link: nothing stays down, nobody cries wolf, nothing leaks."""

from __future__ import annotations

import pytest
from jsonschema import validate

from tests.vm.commandline import EXAMPLES, Vpctl, user

pytestmark = pytest.mark.vm

HEALTH = "{health: {heartbeat: 4s, qmp_timeout: 5s}}"
LINKS = """
  lan0: {kind: stream, endpoints: [vm1, vm2]}
  shm0: {kind: ivshmem-doorbell, endpoints: [vm1, vm2]}
"""

ROUND_LIMIT = 120.0
"""Seconds for a round on a host that does much else."""


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
def test_every_fault_of_a_soak_is_recovered(rounds: int) -> None:
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", f"{{vm1: {HEALTH}, vm2: {HEALTH}}}", LINKS)))
        soak(vpctl, rounds, seed=3)


@pytest.mark.long
@pytest.mark.parametrize("example", ["vhost-pci", "all-kinds"])
def test_every_fault_of_a_hundred_rounds_is_recovered(example: str) -> None:
    with user() as vpctl:
        vpctl.run("up", str(EXAMPLES / f"{example}.yaml"))
        soak(vpctl, 100, seed=1)


def soak(vpctl: Vpctl, rounds: int, *, seed: int) -> None:
    words = ("soak", "-f", "json", "--rounds", str(rounds), "--seed", str(seed))
    done = vpctl.start(*words).wait(None, limit=rounds * ROUND_LIMIT)
    assert done.status == 0, done
    report = done.data
    validate(report, vpctl.run("schema", "soak").data)
    assert (report["ok"], report["unrecovered"], report["false_alarms"], report["leaks"]) == (True, [], [], [])
    assert [entry["round"] for entry in report["rounds"]] == list(range(1, rounds + 1))
    assert report["recoveries"] > 0
    assert vpctl.json("check")["ok"]
