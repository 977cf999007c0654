"""Tables of results, whole, against files: at 80 and 120 columns, in ASCII, with the longest names there can be."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from functools import partial

import pytest
from rich.text import Text

from tests.golden import assert_golden
from tests.unit.bench.results.made import (
    STEADY,
    made_failure,
    made_link,
    made_result,
    made_sample,
    made_settings,
    made_skip,
    scaled,
    whole_samples,
)
from vpctl.bench.results.compare import rows_of_kinds, rows_of_two_results
from vpctl.bench.results.result import BenchResult, Comparison
from vpctl.cli.compare import compare_table
from vpctl.cli.view import render
from vpctl.cli.view.bench_table import bench_table
from vpctl.cli.view.columns import Bar, Cell, Column, lay_out
from vpctl.cli.view.figures import ASCII, UNICODE, Marks, marks_for

LONG = ("frontend-of-the-first-customer1", "frontend-of-the-first-customer2")
"""31 characters each, as long as a VM's name can be; they differ at the end."""


def one_link() -> BenchResult:
    return made_result(whole_samples())


def long_names() -> BenchResult:
    samples = whole_samples("abcdefghijklmno", "ivshmem-doorbell", ends=LONG)
    return made_result(samples, links=[made_link("abcdefghijklmno", "ivshmem-doorbell", endpoints=LONG)])


def broken() -> BenchResult:
    reason = "5 measurements in a row failed, the last of them with: ping: no reply from 10.77.0.2 within 1 s"
    return made_result(
        [
            *whole_samples()[:3],
            made_sample("udp", [0.0] * 7, variant="64 B"),
            made_sample("outage", [812.0, 900.0], variant="crash"),
            made_sample("tcp", [3.0], metric="retransmits", unit="", better="lower"),
        ],
        settings=made_settings("ping", "tcp", "udp", repeats=1, quick=True),
        failures=[
            made_failure("tcp", "iperf3 ended with 1: unable to connect to server", source="vm1", target="vm2"),
            made_failure("udp", "no reply\nfrom\tiperf3", variant="64 B", round=0),
        ],
        skipped=[made_skip("pktgen", reason)],
    )


def kinds() -> BenchResult:
    samples, links = [], []
    for number, (kind, factor) in enumerate({"vhost-pci": 1.0, "stream": 0.7, "ivshmem-doorbell": 1.05}.items()):
        ends = (f"vm1-{number}", f"vm2-{number}")
        links.append(made_link(kind[:15], kind, endpoints=ends))
        samples += whole_samples(kind[:15], kind, ends=ends, factor=factor)
    failure = made_failure("cpu", "no traffic", link="ivshmem-doorbel", kind="ivshmem-doorbell")
    result = made_result(samples[:-1], links=links, failures=[failure])
    return result.model_copy(update={"comparisons": rows_of_kinds(result)})


def same_kind_twice() -> BenchResult:
    samples = [made_sample("tcp", link="tap"), made_sample("tcp", STEADY[:3], link="tap-2")]
    links = [made_link("tap", "tap"), made_link("tap-2", "tap")]
    result = made_result([s.model_copy(update={"kind": "tap"}) for s in samples], links=links)
    return result.model_copy(update={"comparisons": rows_of_kinds(result)})


def two_results() -> list[Comparison]:
    old = [*whole_samples(), made_sample("ping", scaled(3), ends=("vm2", "vm1")), made_sample("outage", [0.0] * 7)]
    new = [
        *whole_samples(factor=0.8)[1:-1],
        made_sample("ping", scaled(3.1), ends=("vm2", "vm1")),
        made_sample("cpu", [0.012, 0.013, 0.02]),
        made_sample("outage", [80.0] * 7),
    ]
    skip = made_skip("ping", "not run: the guest has no ping")
    before, after = made_result(old, settings=made_settings()), made_result(new, settings=made_settings())
    return rows_of_two_results(before, after.model_copy(update={"skipped": [skip]}))


Table = Callable[..., Text]

TABLES: dict[str, Table] = {
    "one-link": partial(bench_table, one_link()),
    "long-names": partial(bench_table, long_names()),
    "broken": partial(bench_table, broken()),
    "kinds": partial(bench_table, kinds()),
    "same-kind-twice": partial(bench_table, same_kind_twice()),
    "nothing": partial(bench_table, made_result()),
    "compare": partial(compare_table, two_results()),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_its_width(name: str, width: int) -> None:
    text = TABLES[name](width=width).plain
    assert max(map(len, text.splitlines())) <= width
    assert_golden(f"bench_table/{name}-{width}.txt", text + "\n")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_ascii_says_the_same(name: str) -> None:
    text = TABLES[name](ascii=True).plain
    assert text.isascii()
    assert "?" not in text
    unicode = TABLES[name]().plain.translate(str.maketrans("µ→…", "u>~"))
    pairs = zip(text.splitlines(), unicode.splitlines(), strict=True)
    assert all(re.sub(" *#*$", "", ours) == re.sub(" *[▏▎▍▌▋▊▉█]*$", "", theirs) for ours, theirs in pairs)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(table: Text, stream: io.StringIO) -> str:
    render.console(stream).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("name", TABLES)
def test_a_pipe_gets_the_lines_as_they_are(name: str) -> None:
    table = TABLES[name](width=render.PLAIN_WIDTH)
    assert printed(table, io.StringIO()) == table.plain + "\n"


@pytest.mark.parametrize("name", ["compare", "kinds"])
def test_a_terminal_of_80_columns_has_the_same_lines_in_colour(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = TABLES[name](width=80)
    text = printed(table, Terminal())
    assert "\x1b[31mworse" in text
    assert "\x1b[32mbetter is" not in text
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == table.plain + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(table, Terminal())


@pytest.mark.parametrize(
    ("encoding", "marks"),
    [("utf-8", UNICODE), ("ascii", ASCII), ("iso-8859-1", ASCII), ("nonsense", ASCII), (None, ASCII)],
)
def test_characters_are_those_that_the_encoding_has(encoding: str | None, marks: Marks) -> None:
    class Stream(io.StringIO):
        pass

    Stream.encoding = encoding  # type: ignore[assignment]  # as a stream without one says
    assert marks_for(Stream()) is marks


def test_messages_beyond_ascii_cannot_break_an_ascii_table() -> None:
    result = made_result(failures=[made_failure("tcp", "ungültig — ü")])
    assert "ung?ltig ? ?" in bench_table(result, ascii=True).plain


def test_bars_compare_rows_of_one_workload_and_metric_only() -> None:
    samples = [made_sample("tcp", [800.0] * 3), made_sample("tcp", [400.0] * 3, ends=("vm2", "vm1"))]
    table = bench_table(made_result([*samples, made_sample("udp", [1.0] * 3)]), width=120)
    assert [line.count("█") for line in table.plain.splitlines() if "→" in line] == [20, 10, 20]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_figures_that_are_no_numbers_have_no_bar_and_hide_no_other(bad: float) -> None:
    samples = [made_sample("tcp", [bad] * 3), made_sample("tcp", [5.0] * 3, ends=("vm2", "vm1"))]
    text = bench_table(made_result(samples)).plain
    assert [line.count("█") for line in text.splitlines() if "→" in line] == [0, 20]
    assert "nan" not in text
    assert "inf" not in text


def test_columns_of_nothing_are_left_out_and_bars_give_way_first() -> None:
    columns = (
        Column(title="A", least=2),
        Column(title="B"),
        Column(title="C", right=True),
        Column(title="", least=3, most=9),
    )
    rows: list[tuple[Cell, ...]] = [("abcdefgh", "", "1", Bar(fraction=1.0)), ("x", "", "22", Bar(fraction=None))]

    def laid(width: int) -> list[str]:
        return lay_out(columns, rows, width=width, marks=UNICODE)

    assert laid(40) == ["A          C", "abcdefgh   1  █████████", "x         22"]
    assert laid(18) == ["A          C", "abcdefgh   1  ████", "x         22"]
    assert laid(14) == ["A       C", "ab…gh   1  ███", "x      22"]
    assert laid(1) == ["A    C", "…h   1  ███", "x   22"]
