"""Which rows of two results belong together, what becomes of those that have no counterpart, and thresholds."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

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
from vpctl.bench.results.compare import (
    Thresholds,
    names_in,
    notes_of_two_results,
    parse_thresholds,
    rows_of_kinds,
    rows_of_two_results,
)
from vpctl.bench.results.result import BenchResult, Comparison
from vpctl.errors import NotFoundError, UsageError


def verdicts(rows: list[Comparison]) -> dict[str, str]:
    return {f"{row.workload} {row.variant or ''} {row.source}".replace("  ", " "): row.verdict for row in rows}


def test_a_result_against_itself_is_the_same_in_every_row() -> None:
    result = made_result(whole_samples())
    rows = rows_of_two_results(result, result)
    assert [row.verdict for row in rows] == ["same"] * len(result.samples)
    assert {row.ratio for row in rows} == {1.0}
    assert notes_of_two_results(result, result) == []


def test_every_row_of_a_result_that_is_worse_in_all_is_worse_and_its_mirror_better() -> None:
    good, bad = made_result(whole_samples()), made_result(whole_samples(factor=0.7))
    assert {row.verdict for row in rows_of_two_results(good, bad)} == {"worse"}
    assert {row.verdict for row in rows_of_two_results(bad, good)} == {"better"}


def test_rows_are_matched_by_all_that_names_them_not_by_their_order() -> None:
    samples = whole_samples()
    slow_back = made_sample("tcp", scaled(1.0), ends=("vm2", "vm1"))
    changed = [slow_back if sample.key == slow_back.key else sample for sample in samples]
    rows = rows_of_two_results(made_result(samples), made_result(changed[::-1]))
    assert [key for key, verdict in verdicts(rows).items() if verdict == "worse"] == ["tcp vm2"]
    assert [row.workload for row in rows] == [sample.workload for sample in samples]


def test_comparisons_of_like_with_like_hardly_ever_find_anything() -> None:
    random = Random(11)

    def noisy() -> BenchResult:
        samples = [
            made_sample(name, [random.lognormvariate(5, 0.3) for _ in range(7)], link=f"lan{number}")
            for number in range(4)
            for name in ("ping", "tcp")
        ]
        return made_result(samples)

    found = [
        row.verdict
        for _ in range(25)
        for row in rows_of_two_results(noisy(), noisy(), Thresholds(every=0))
        if row.verdict in ("better", "worse")
    ]
    assert len(found) <= 3


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"failures": [made_failure("udp", "no packet arrived")]}, "no packet arrived"),
        (
            {
                "failures": [
                    made_failure("udp", "another size", variant="64 B"),
                    made_failure("udp", "the other way", source="vm2", target="vm1"),
                    made_failure("udp", "this one", variant="1514 B", source="vm1", target="vm2"),
                ]
            },
            "this one",
        ),
        ({"failures": [made_failure("udp", "the other way", source="vm2")]}, "the other way"),
        ({"failures": [made_failure("tcp", "connection reset")]}, "tcp failed: connection reset"),
        ({"failures": [made_failure("udp", "elsewhere", link="lan1")]}, "no figure, and no reason given"),
        ({"skipped": [made_skip("udp", "the link broke")]}, "the link broke"),
        (
            {"skipped": [made_skip("udp", "gave up")], "failures": [made_failure("udp", "x", source="vm2")]},
            "gave up",
        ),
        ({}, "no figure, and no reason given"),
    ],
)
def test_a_row_that_new_was_asked_for_and_lacks_is_missing_with_news_reason(more: Any, reason: str) -> None:
    udp, tcp = made_sample("udp", variant="1514 B"), made_sample("tcp")
    old = made_result([udp, tcp])
    new = made_result([tcp], settings=old.settings, **more)
    missing, same = rows_of_two_results(old, new)
    assert (missing.verdict, missing.reason, missing.new_median, missing.p) == ("missing", reason, None, None)
    assert missing.old_median == udp.median
    assert (same.verdict, same.p) == ("same", same.p_adjusted)


@pytest.mark.parametrize("values", [[math.nan] * 7, [math.inf] * 7, []])
def test_figures_that_are_no_numbers_are_none(values: list[float]) -> None:
    bad = made_sample("tcp").model_copy(update={"values": values, "median": math.nan})
    old, new = made_result([made_sample("tcp"), made_sample("ping")]), made_result([bad, made_sample("ping")])
    assert verdicts(rows_of_two_results(old, new)) == {"tcp vm1": "missing", "ping vm1": "same"}
    assert verdicts(rows_of_two_results(new, old)) == {"ping vm1": "same"}
    assert notes_of_two_results(new, old) == ["only NEW has tcp on lan0 (stream)"]


def test_what_new_was_not_asked_for_is_a_note_and_no_row() -> None:
    old = made_result([*whole_samples(), made_sample(link="lan1"), made_sample(link="lan2")])
    new = made_result(
        [made_sample("tcp"), made_sample("ping", variant="56 B"), made_sample(link="lan2", kind="dgram")]
    )
    rows = rows_of_two_results(old, new)
    assert [(row.workload, row.source) for row in rows] == [("ping", "vm1"), ("tcp", "vm1"), ("tcp", "vm2")]
    assert notes_of_two_results(old, new) == [
        "only OLD has tcp-bidir, udp, pktgen, cpu on lan0 (stream); tcp on lan1 (stream); tcp on lan2 (stream)",
        "only NEW has tcp on lan2 (dgram)",
    ]


def test_a_quick_run_owes_no_variants_that_it_says_nothing_of() -> None:
    old = made_result([made_sample("udp", variant="64 B"), made_sample("udp", variant="1514 B")])
    quick = made_settings("udp", quick=True)
    new = made_result([made_sample("udp", variant="1514 B")], settings=quick)
    assert [row.variant for row in rows_of_two_results(old, new)] == ["1514 B"]
    assert notes_of_two_results(old, new) == ["only OLD has udp on lan0 (stream)"]
    failed = new.model_copy(update={"failures": [made_failure("udp", "lost", variant="64 B")]})
    assert [row.verdict for row in rows_of_two_results(old, failed)] == ["missing", "same"]
    both = old.model_copy(update={"settings": quick})
    assert [row.verdict for row in rows_of_two_results(both, new)] == ["missing", "same"]


def test_repeats_that_failed_in_new_are_told_beside_the_verdict() -> None:
    old = made_result([made_sample("tcp")])
    new = made_result(
        [made_sample("tcp", STEADY[:5])], failures=[made_failure("tcp", "reset"), made_failure("tcp", "x")]
    )
    assert [row.verdict for row in rows_of_two_results(old, new)] == ["same"]
    assert notes_of_two_results(old, new) == [
        "NEW has fewer figures of tcp vm1 to vm2 on lan0 (stream): 2 failed, reset"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([made_sample("tcp")], [made_sample("tcp", link="lan1")]),
        ([made_sample("tcp")], [made_sample("tcp", kind="dgram")]),
        ([made_sample("tcp")], [made_sample("ping")]),
        ([], [made_sample("tcp")]),
        ([], []),
    ],
)
def test_results_with_nothing_in_common_are_not_found(old: Any, new: Any) -> None:
    with pytest.raises(NotFoundError, match="no row in common") as caught:
        rows_of_two_results(made_result(old), made_result(new))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("OLD has ")


def test_rows_in_different_units_are_not_compared() -> None:
    old = made_result([made_sample("ping")])
    new = made_result([made_sample("ping", unit="ms")])
    with pytest.raises(UsageError, match="in µs in one result, in ms in the other"):
        rows_of_two_results(old, new)


@pytest.mark.parametrize(
    ("words", "ping", "tcp", "udp"),
    [
        ([], 15, 15, 15),
        (["10"], 10, 10, 10),
        (["rtt=25"], 25, 15, 15),
        (["throughput=20", "tcp=5"], 15, 5, 20),
        (["tcp=5", "throughput=20", "7.5"], 7.5, 5, 20),
        (["10", "12"], 12, 12, 12),
        (["udp=0", "udp=1000"], 15, 15, 1000),
    ],
)
def test_a_threshold_is_of_all_of_a_metric_or_of_a_workload(
    words: list[str], ping: float, tcp: float, udp: float
) -> None:
    result = made_result(whole_samples())
    thresholds = parse_thresholds(words, names_in(result))
    found = {row.workload: row.threshold_percent for row in rows_of_two_results(result, result, thresholds)}
    assert (found["ping"], found["tcp"], found["udp"]) == (ping, tcp, udp)


@pytest.mark.parametrize("word", ["", "x", "tcp=", "=10", "-1", "tcp=-1", "nan", "inf", "1001", "tcp=10=10", "10%"])
def test_what_is_no_threshold_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError):
        parse_thresholds([word], {"tcp", "throughput"})


def test_an_unknown_name_of_a_threshold_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no workload or metric named `rrt`") as caught:
        parse_thresholds(["rrt=10"], names_in(made_result([made_sample("ping"), made_sample("tcp")])))
    assert caught.value.hint == "these are in the results: `ping`, `rtt`, `tcp`, `throughput`"


def of_kinds(*kinds: str, apart: bool = False, **factors: float) -> BenchResult:
    """Return a result with a link of each kind, named after it; perhaps with a pair of VMs for each."""
    samples, links = [], []
    for number, kind in enumerate(kinds):
        ends = (f"vm1-{number}", f"vm2-{number}") if apart else ("vm1", "vm2")
        links.append(made_link(f"{kind}{number}", kind, endpoints=ends))
        samples += whole_samples(f"{kind}{number}", kind, ends=ends, factor=factors.get(kind, 1.0))
    return made_result(samples, links=links)


@pytest.mark.parametrize("apart", [False, True])
def test_each_other_kind_is_judged_against_the_first_or_the_one_that_is_chosen(apart: bool) -> None:
    result = of_kinds("stream", "dgram", "tap", apart=apart, dgram=0.5, tap=2.0)
    rows = rows_of_kinds(result)
    assert len(rows) == 2 * len(whole_samples())
    assert {(row.old_kind, row.new_kind, row.verdict) for row in rows} == {
        ("stream", "dgram", "worse"),
        ("stream", "tap", "better"),
    }
    assert {(row.source, row.target) for row in rows if row.workload == "ping"} == {result.links[0].endpoints}
    rows = rows_of_kinds(result, baseline="dgram1")
    assert {(row.old_link, row.new_link, row.verdict) for row in rows} == {
        ("dgram1", "stream0", "better"),
        ("dgram1", "tap2", "better"),
    }


def test_a_kind_may_be_compared_with_itself() -> None:
    rows = rows_of_kinds(of_kinds("stream", "stream"))
    assert [(row.old_link, row.new_link, row.verdict) for row in rows] == [("stream0", "stream1", "same")] * 8


def test_a_kind_without_a_figure_is_missing_with_its_own_reason() -> None:
    whole = of_kinds("stream", "dgram", apart=True)
    result = whole.model_copy(
        update={
            "samples": [
                s for s in whole.samples if (s.kind, s.workload) not in {("dgram", "udp"), ("stream", "ping")}
            ],
            "skipped": [made_skip("udp", "stream's own", link="stream0")],
            "failures": [
                made_failure("udp", "too long", link="dgram1", kind="dgram", source="vm1-1", target="vm2-1")
            ],
        }
    )
    rows = rows_of_kinds(result)
    assert [(row.workload, row.reason) for row in rows if row.verdict == "missing"] == [("udp", "too long")] * 2
    assert "ping" not in {row.workload for row in rows}


def test_a_baseline_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no link named `tap`"):
        rows_of_kinds(of_kinds("stream", "dgram"), baseline="tap")


def test_one_link_alone_has_nothing_to_be_judged_against() -> None:
    assert rows_of_kinds(of_kinds("stream")) == []
