"""The linters, run as tests: one command tells all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [name for name in ("vpctl", "tests", "benchmarks", "images") if any((ROOT / name).rglob("*.py"))]
TYPED = [name for name in SOURCES if name != "images"]

pytestmark = pytest.mark.mandatory


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("ruff", ["check", *SOURCES], id="ruff-check"),
        pytest.param("ruff", ["format", "--check", *SOURCES], id="ruff-format"),
        pytest.param("mypy", TYPED, id="mypy"),
    ],
)
def test_linter_finds_nothing(tool: str, arguments: list[str]) -> None:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed in {sys.prefix}: run `make setup`")
    argv = [sys.executable, "-m", tool, *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
