"""`vpctl soak`'s report: its published schema, and what the command line makes of it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.made import made_topology
from vpctl.__main__ import main
from vpctl.cli.soak import complaints
from vpctl.client.soak.plan import faults_of_round
from vpctl.client.soak.report import Round, report_schema
from vpctl.client.soak.run import SoakTally


def made(*, rounds: int, outages: list[float], unrecovered: list[str]) -> dict[str, Any]:
    topology = made_topology(("ab0", "a", "b"))
    entries = [
        Round(
            round=number,
            strikes=[str(planned) for planned in faults_of_round(topology, seed=3, number=number)],
            ok=True,
            seconds=7.5,
            outages_ms=outages,
        )
        for number in range(1, rounds + 1)
    ]
    return SoakTally(seed=3, rounds=entries, outages=outages, recoveries=rounds, unrecovered=unrecovered).as_json()


WELL = made(rounds=50, outages=[812.5, 3100.0], unrecovered=[])
ILL = made(rounds=1, outages=[], unrecovered=["round 1: kill a: everything to be well: not within 300 s"])


@pytest.mark.parametrize("report", [WELL, ILL], ids=["well", "ill"])
def test_a_report_is_what_the_schema_says(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.validate(report, report_schema())
    jsonschema.validate({**report, "a key of a later version": 1}, report_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"ok": "yes"},
        {"leaks": [3]},
        {"recoveries": -1},
        {"outage_ms": {"p50": 1.0}},
        {"rounds": [{**WELL["rounds"][0], "strikes": []}]},
        {"rounds": [{**WELL["rounds"][0], "round": 0}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_is_no_report(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**WELL, **change}, report_schema())


@pytest.mark.parametrize("key", WELL)
def test_the_schema_asks_for_every_key(key: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: value for name, value in WELL.items() if name != key}, report_schema())


def test_schema_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schema", "soak"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == report_schema()


def test_what_went_wrong_is_told_with_the_round_to_have_again() -> None:
    assert complaints(WELL) == []
    bad = {**ILL, "rounds": [{**ILL["rounds"][0], "ok": False}]}
    (error,) = complaints(bad)
    assert (error.message, error.hint) == (ILL["unrecovered"][0], "vpctl soak --seed 3 --first 1 --rounds 1")
