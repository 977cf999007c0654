"""Strict YAML: what is refused, where it is pointed at, and what a scalar means."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from vpctl.topology import document
from vpctl.topology.document import DEEPEST, LARGEST_FILE, Plain, parse, resolve
from vpctl.topology.problems import Problems


def read(text: str | bytes, **environ: str) -> tuple[Plain, list[str]]:
    problems = Problems("f")
    root = parse(text, problems=problems, environ=environ)
    found = problems.error().problems if problems else ()
    return (root.plain() if root is not None else None), [f"{p.line}:{p.column} {p.message}" for p in found]


@pytest.fixture(params=["as installed", "pure Python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure Python":
        monkeypatch.setattr(document, "LOADER", yaml.SafeLoader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("-3", -3),
        ("9" * 5000, "9" * 5000),
        ("1." + "9" * 5000, "1." + "9" * 5000),
    ],
)
def test_resolves_plain_scalars_as_yaml_1_2_does(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quotes_make_a_string() -> None:
    assert read("a: '1'\nb: \"true\"\nc: |\n  2\n") == ({"a": "1", "b": "true", "c": "2\n"}, [])


def test_keys_are_text_as_they_stand() -> None:
    assert read("on: 1\n010: 2\n'x': 3") == ({"on": 1, "010": 2, "x": 3}, [])


def test_expands_references_and_resolves_the_result() -> None:
    text = "a: ${A}\nb: '${A}'\nc: ${B:-5}\nd: x${A}y${A}\ne: $${A} $A $\nf: ${EMPTY:-7}\ng: ${EMPTY}\nh: ${B:-}"
    value, problems = read(text, A="2", EMPTY="")
    assert problems == []
    assert value == {"a": 2, "b": "2", "c": 5, "d": "x2y2", "e": "${A} $A $", "f": 7, "g": None, "h": None}


def test_an_expanded_value_is_never_read_as_yaml() -> None:
    assert read("a: ${A}", A="{b: [1, 2]} # x")[0] == {"a": "{b: [1, 2]} # x"}
    assert read("a: ${A}", A="${HOME}")[0] == {"a": "${HOME}"}


def test_reports_every_reference_without_a_value_at_its_place() -> None:
    value, problems = read("a: ${NO}\nb: [1, '${NO2}']\nc: ${-}\nd: 1")
    assert value == {"d": 1}
    assert problems == [
        "1:4 environment variable `NO` is not set",
        "2:8 environment variable `NO2` is not set",
        "3:4 `${` does not begin a reference",
    ]


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x 1", "1:4 anchors (`&x`) are not supported"),
        ("a: *x", "1:4 aliases (`*x`) are not supported"),
        ("<<: {a: 1}", "1:1 merge keys (`<<`) are not supported"),
        ("a: !!int '1'", "1:4 tags (`tag:yaml.org,2002:int`) are not supported"),
        (
            "a: !!python/object:os.system {}",
            "1:4 tags (`tag:yaml.org,2002:python/object:os.system`) are not supported",
        ),
        ("a: !x {b: 1}", "1:4 tags (`!x`) are not supported"),
        ("a: 1\n---\nb: 2", "2:1 a second document"),
        ("[1, 2]: 3", "1:1 a key must be a name"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "2:17 key `c` is given twice"),
        ("b: 1\na: 1\nb: 2", "3:1 key `b` is given twice"),
        ('a: "\\0"', "1:4 character U+0000 is not text"),
        ("[" * (DEEPEST + 2), f"1:{DEEPEST + 2} nested deeper than {DEEPEST} levels"),
    ],
)
def test_refuses(text: str, problem: str) -> None:
    assert read(text)[1] == [problem]


def test_a_refused_value_is_left_out_and_the_rest_is_read() -> None:
    assert read("a: *x\nb: {c: !t 1, d: 2}\ne: [1, *y]\nf: 3")[0] == {"b": {"d": 2}, "f": 3}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: 1\nb\xc3\xa9: \xff", "2:5 byte 0xff is not UTF-8"),
        (b"\xff\xfea\x00", "1:1 byte 0xff is not UTF-8"),
        (b"a: 1\nb: \x00", "2:4 character U+0000 is not text"),
        ("a: \ud800", "1:4 character U+D800 is not text"),
        (b"\x7fELF\x02\x01\x01", "1:1 character U+007F is not text"),
        (b"#" * (LARGEST_FILE + 1), "1:1 larger than 1 MiB"),
    ],
)
def test_refuses_what_is_no_text(data: str | bytes, problem: str) -> None:
    assert read(data)[1] == [problem]


def test_accepts_a_byte_order_mark_and_carriage_returns() -> None:
    assert read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == ({"a": 1, "b": 2}, [])
    assert read("\ufeffa: 1") == ({"a": 1}, [])


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a:\n\tb: 1", 2, "YAML is indented with spaces, not with tabs"),
        ("a: {b: ${B}}", 1, 'inside `{…}` and `[…]` a reference needs quotes: `"${NAME}"`'),
        ("a: b: c", 1, "look, there or just before, for a bracket or quote that is not closed"),
        ("a: 'x", 1, "look, there or just before, for a bracket or quote that is not closed"),
    ],
)
def test_explains_broken_syntax(text: str, line: int, hint: str) -> None:
    problems = Problems("f")
    parse(text, problems=problems, environ={})
    (problem,) = problems.error().problems
    assert problem.message.startswith("not valid YAML: ")
    assert problem.line == line
    assert (problem.hint or "").startswith(hint)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "x" * (LARGEST_FILE - 10),
        "[" * (LARGEST_FILE - 1),
        "{" * (LARGEST_FILE - 1),
        "- " * (LARGEST_FILE // 2 - 1),
        "? " * (LARGEST_FILE // 2 - 1),
        "a: [" + "1," * (LARGEST_FILE // 8) + "]",
        "".join(f"k{n}: {n}\n" for n in range(50_000)),
        "a: '" + "${" * 100_000 + "'",
    ],
)
def test_a_hostile_file_ends_in_seconds(text: str) -> None:
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 10


def test_the_module_reads_no_file() -> None:
    assert "open(" not in Path(document.__file__).read_text()
