"""The linters, run as tests: one command tells all."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
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


TEXT_WORDS = {"text", "universal_newlines", "errors"}
"""Arguments by which `subprocess` and `open` decode."""


def decodes_by_locale(source: str) -> Iterator[int]:
    """Yield the lines of calls that read or write text in whatever encoding the user's locale has.

    ruff's PLW1514 sees only what it can prove to be a `Path`; here the names of methods are enough.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of = getattr(getattr(node.func, "value", None), "id", "")
        given = {word.arg for word in node.keywords}
        if "encoding" in given or None in given:  # None: `**words`, which say what they say
            continue
        values = [*node.args, *(word.value for word in node.keywords)]
        modes = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        is_function = isinstance(node.func, ast.Name)
        opens = name == "fdopen" or (name == "open" and of != "os" and (is_function or bool(modes) or not values))
        is_binary = any("b" in mode and set(mode) <= set("rwaxb+") for mode in modes)
        if (
            name in ("read_text", "write_text", "TextIOWrapper")
            or (opens and not is_binary)
            or (of == "subprocess" and given & TEXT_WORDS)
        ):
            yield node.lineno


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='ascii')", False),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("path.open()", True),
        ("path.open('w')", True),
        ("path.open('rb')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("os.fdopen(fd, 'w')", True),
        ("server.open(peers)", False),
        ("subprocess.run(argv, text=True)", True),
        ("subprocess.run(argv)", False),
    ],
)
def test_what_decodes_by_locale_is_found(call: str, found: bool) -> None:
    assert bool([*decodes_by_locale(call)]) is found


def test_nothing_of_vpctl_reads_or_writes_text_in_the_encoding_of_the_users_locale() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "vpctl").rglob("*.py"))
        for line in decodes_by_locale(path.read_text(encoding="utf-8"))
    ]
    assert not found
