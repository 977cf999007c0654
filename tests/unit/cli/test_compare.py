"""`vpctl compare` as a CI job calls it, and the published schema of what it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.bench.results.made import (
    PINGS,
    STEADY,
    made_failure,
    made_host,
    made_result,
    made_sample,
    made_settings,
    made_skip,
    made_timing,
    scaled,
    whole_samples,
)
from vpctl.__main__ import main
from vpctl.bench.results.compare import rows_of_kinds
from vpctl.bench.results.result import BenchResult, RawRecord, read_result, result_schema, write_result

RAW = RawRecord(
    link="lan0", workload="tcp", vm="vm1", round=1, command="iperf3 -c", status=0, stdout="{}", stderr="\x1b[0m"
)


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def files(tmp_path: Path, *results: BenchResult) -> list[Path]:
    paths = [tmp_path / f"{number}.json" for number in range(len(results))]
    for path, result in zip(paths, results, strict=True):
        write_result(path, result)
    return paths


def test_a_result_against_itself_is_0_and_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, made_result(whole_samples()))
    assert run("compare", path, path) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].split() == [
        "WORKLOAD",
        "DIRECTION",
        "VARIANT",
        "LINK",
        "OLD",
        "NEW",
        "CHANGE",
        "VERDICT",
    ]
    assert out.endswith("\n\n8 same\n")


def test_a_regression_is_7_with_the_rows_on_stderr_and_the_table_on_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = made_result(whole_samples()), made_result(whole_samples(factor=0.75))
    assert run("compare", *files(tmp_path, old, new)) == 7
    out, err = capsys.readouterr()
    assert out.count("worse") == 9
    assert err.startswith(
        "error: 8 worse of 8 rows: ping 56 B vm1 to vm2 on lan0 (+33.3 %), tcp vm1 to vm2 on lan0 (-25.0 %)"
    )
    assert " and 3 more\nhint: " in err


def test_better_is_0_and_so_is_unclear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = made_result([made_sample("tcp"), made_sample("udp", STEADY[:3])])
    new = made_result([made_sample("tcp", scaled(2)), made_sample("udp", scaled(0.1)[:3])])
    assert run("compare", *files(tmp_path, old, new), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is True
    assert data["counts"] == {"better": 1, "worse": 0, "same": 0, "unclear": 1, "missing": 0}


def test_missing_counts_as_worse_and_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_result([made_sample("tcp"), made_sample("udp")])
    new = made_result([made_sample("udp")], settings=old.settings, failures=[made_failure("tcp", "no route")])
    assert run("compare", *files(tmp_path, old, new)) == 7
    out, err = capsys.readouterr()
    assert "missing: lan0 tcp vm1 to vm2: no route" in out
    assert err.startswith("error: 1 missing of 2 rows: tcp vm1 to vm2 on lan0 (missing)\n")


def test_json_has_rows_warnings_and_counts_and_is_alone_on_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_result(whole_samples())
    new = made_result([*whole_samples(factor=0.5), made_sample(link="lan1")], host=made_host(cores=64))
    paths = files(tmp_path, old, new)
    assert run("compare", *paths, "-f", "json") == 7
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert (data["schema_version"], data["ok"], data["old"]["file"]) == (1, False, str(paths[0]))
    assert data["new"]["vpctl_version"] == "0.1.0"
    assert data["counts"]["worse"] == len(data["rows"]) == 8
    row = data["rows"][1]
    assert (row["workload"], row["from"], row["to"], row["verdict"]) == ("tcp", "vm1", "vm2", "worse")
    assert row["ratio"] == pytest.approx(0.5)
    assert data["warnings"] == [
        "the host's number of cores differs: 4 in OLD, 64 in NEW",
        "only NEW has tcp on lan1 (stream)",
    ]
    for warning in data["warnings"]:
        assert f"warning: {warning}\n" in err
    (definition,) = (result_schema()["$defs"][name] for name in ("Comparison",))
    for row in data["rows"]:
        jsonschema.validate(row, definition)


def test_warnings_are_said_even_if_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = made_result(whole_samples()), made_result(whole_samples(), host=made_host(kernel="6.9"))
    assert run("compare", *files(tmp_path, old, new), "-q") == 0
    assert "warning: the host's kernel differs" in capsys.readouterr().err


def test_thresholds_decide_what_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = files(tmp_path, made_result(whole_samples()), made_result(whole_samples(factor=0.9)))
    assert run("compare", *paths) == 0
    assert run("compare", *paths, "--threshold", "10") == 7
    assert run("compare", *paths, "--threshold", "tcp=5", "--threshold", "rtt=5") == 7
    assert "ping 56 B vm1 to vm2 on lan0 (+11.1 %), tcp vm1" in capsys.readouterr().err
    assert run("compare", *paths, "--threshold", "tpc=5") == 2
    assert "hint: these are in the results: `cpu`, `ping`, " in capsys.readouterr().err


def test_results_with_nothing_in_common_are_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = made_result([made_sample("tcp")]), made_result([made_sample("tcp", kind="dgram")])
    assert run("compare", *files(tmp_path, old, new), "--json") == 8
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not-found"
    assert error["hint"] == "OLD has tcp on lan0 (stream); NEW has tcp on lan0 (dgram)"


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "{", '{"schema_version": 2}', "\x00"])
def test_a_file_that_is_no_result_is_2(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (good,) = files(tmp_path, made_result(whole_samples()))
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    assert run("compare", good, bad) == 2
    assert run("compare", bad, good) == 2
    assert run("compare", good, tmp_path / "none.json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("hint: vpctl bench -o FILE writes one") == 3


def whole() -> BenchResult:
    """Return a result with something in every place."""
    samples = [*whole_samples("a", "stream"), *whole_samples("b", "dgram")[:-1]]
    result = made_result(
        samples,
        host=made_host(governor="performance"),
        settings=made_settings(crash="vm1"),
        failures=[made_failure("tcp", variant="x", source="vm1", target="vm2", hint="h")],
        skipped=[made_skip("cpu")],
        timings=[made_timing("tcp")],
        raw=[RAW],
    )
    return result.model_copy(update={"comparisons": rows_of_kinds(result)})


@pytest.mark.parametrize("result", [whole(), made_result()], ids=["whole", "empty"])
def test_what_is_written_is_what_the_schema_says_and_what_is_read_again(result: BenchResult, tmp_path: Path) -> None:
    assert len(PINGS) >= 10_000  # so that every percentile is there
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(result.as_json(), schema)
    written = write_result(tmp_path / "r.json", result)
    jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), schema)
    assert read_result(tmp_path / "r.json") == written


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"samples": [{"link": "lan0"}]},
        {"host": {}},
        {"skipped": [{"link": "lan0", "kind": "stream", "workload": "tcp"}]},
        {"comparisons": [{"verdict": "fine"}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_is_no_result(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**whole().as_json(), **change}, result_schema())


def test_schema_prints_either_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", "bench") == 0
    assert json.loads(capsys.readouterr().out) == result_schema()
    assert run("schema", "bench", "--json") == 0
    assert json.loads(capsys.readouterr().out) == result_schema()
    assert run("schema", "topology") == run("schema") == 0
    out = capsys.readouterr().out
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert first == second
    assert "links" in json.loads(first)["properties"]
    assert run("schema", "nope") == 2
