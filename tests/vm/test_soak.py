"""Random faults under traffic, over two kinds of link: nothing stays down, nobody cries wolf, nothing leaks."""

from __future__ import annotations

import pytest
from jsonschema import validate

from tests.vm.commandline import Vpctl, user

pytestmark = pytest.mark.vm

HEALTH = "{health: {heartbeat: 4s, qmp_timeout: 5s}}"
LINKS = """
  lan0: {kind: stream, endpoints: [vm1, vm2]}
  shm0: {kind: ivshmem-doorbell, endpoints: [vm1, vm2]}
"""
TEXTS = {"type": "array", "items": {"type": "string"}}
MS = {"type": ["number", "null"], "minimum": 0}
ROUND = {
    "round": {"type": "integer", "minimum": 1},
    "strikes": {**TEXTS, "minItems": 1, "maxItems": 2},
    "ok": {"type": "boolean"},
    "seconds": {"type": "number"},
    "outages_ms": {"type": "array", "items": {"type": "number"}},
}
REPORT = {
    "schema_version": {"const": 1},
    "ok": {"type": "boolean"},
    "seed": {"type": "integer"},
    "recoveries": {"type": "integer", "minimum": 0},
    "unrecovered": TEXTS,
    "false_alarms": TEXTS,
    "leaks": TEXTS,
    "outage_ms": {"type": "object", "properties": dict.fromkeys(("p50", "p90", "p99", "max"), MS)},
    "rounds": {"type": "array", "items": {"type": "object", "required": list(ROUND), "properties": ROUND}},
}
SCHEMA = {"type": "object", "required": list(REPORT), "properties": REPORT}

ROUND_LIMIT = 120.0
"""Seconds for a round on a host that does much else."""


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
def test_every_fault_of_a_soak_is_recovered(rounds: int) -> None:
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", f"{{vm1: {HEALTH}, vm2: {HEALTH}}}", LINKS)))
        soak(vpctl, rounds)


def soak(vpctl: Vpctl, rounds: int) -> None:
    words = ("soak", "-f", "json", "--rounds", str(rounds), "--seed", "3")
    done = vpctl.start(*words).wait(None, limit=rounds * ROUND_LIMIT)
    assert done.status == 0, done
    report = done.data
    validate(report, SCHEMA)
    assert (report["ok"], report["unrecovered"], report["false_alarms"], report["leaks"]) == (True, [], [], [])
    assert [entry["round"] for entry in report["rounds"]] == list(range(1, rounds + 1))
    assert report["recoveries"] > 0
    assert vpctl.json("check")["ok"]
