"""Topology files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.calls import exit_code


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("piar.yaml", "did you mean `pair.yaml`?"),
        (".", "give the path of a topology file"),
        ("sub", "did you mean `sub/only.yaml`?"),
        ("sub/zzz", "did you mean `sub/only.yaml`?"),
        ("nowhere/zzz.yaml", "give the path of a topology file"),
    ],
)
@pytest.mark.parametrize("verb", ["up", "plan", "validate"])
def test_a_topology_file_that_cannot_be_read_is_told_with_what_may_be_meant(
    verb: str,
    asked: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("pair.yaml", "chain.yaml", "sub/only.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert exit_code(verb, asked) == 2
    told = "".join(capsys.readouterr())  # to validate it is data
    assert told.startswith(f"error: cannot read {asked}: ")
    assert f"\nhint: {hint}" in told
