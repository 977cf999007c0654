"""`validate` of several files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.calls import exit_code


def test_validate_tells_every_problem_of_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("version: 1\nname: good\nvms: {a: }\n")
    bad.write_text("version: 2\nname: BAD\nvms: {a: }\n")
    assert exit_code("validate", str(good), str(bad), str(tmp_path / "none.yaml"), "--json") == 2
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(entry["ok"], len(entry["problems"])) for entry in files] == [(True, 0), (False, 2), (False, 1)]
    assert exit_code("validate", str(good)) == 0
