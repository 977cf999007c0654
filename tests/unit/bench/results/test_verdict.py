"""What is better, worse, same and unclear, and what each unclear one gives as its reason."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.bench.results.made import STEADY, scaled
from vpctl.bench.results import stats
from vpctl.bench.results.verdict import Judgement, Values, judge

NAN, INF = math.nan, math.inf

NO_INTERVAL = "the old side has values that are not positive, so the change has no interval"
WIDE = (80.0, 90.0, 100.0, 110.0, 120.0)


def row(old: Any = STEADY, new: Any = STEADY, *, better: Any = "higher", threshold: float = 15.0) -> Values:
    return Values(old=tuple(old), new=tuple(new), better=better, threshold=threshold)


def judged(*rows: Values) -> Judgement:
    """Judge rows together and return what the first comes to."""
    return judge(rows)[0]


@pytest.mark.parametrize(
    ("factor", "higher", "lower"),
    [(0.5, "worse", "better"), (0.8, "worse", "better"), (1.0, "same", "same"), (1.05, "same", "same"),
     (1.25, "better", "worse"), (40.0, "better", "worse"), (0.0, "worse", "better")],
)  # fmt: skip
def test_a_change_beyond_the_threshold_is_told_and_one_below_it_is_none(
    factor: float, higher: str, lower: str
) -> None:
    up = judged(row(new=scaled(factor)))
    down = judged(row(new=scaled(factor), better="lower"))
    assert (up.verdict, down.verdict) == (higher, lower)
    assert up.ratio == pytest.approx(factor)
    assert up.reason is None


def test_the_threshold_is_what_counts_not_the_p() -> None:
    found = judged(row(new=scaled(1.1)))
    assert (found.verdict, found.p_adjusted) == ("same", stats.smallest_p(7, 7))
    assert judged(row(new=scaled(1.1), threshold=5)).verdict == "better"
    assert judged(row(new=scaled(1.1), threshold=10)).verdict == "better"
    assert judged(row(new=scaled(1.1), threshold=0)).verdict == "better"


@pytest.mark.parametrize(("old", "new"), [(100, 115), (100, 85), (20, 23), (0.1, 0.115), (1e9, 1.15e9)])
def test_a_change_of_exactly_the_threshold_counts(old: float, new: float) -> None:
    assert judged(row([old] * 7, [new] * 7)).verdict in ("better", "worse")


@given(st.floats(0.001, 1e9), st.integers(5, 9), st.integers(5, 9), st.floats(0, 1000))
@settings(deadline=None, max_examples=30)
def test_identical_values_are_the_same_whatever_the_threshold(
    value: float, old: int, new: int, threshold: float
) -> None:
    found = judged(row([value] * old, [value] * new, threshold=threshold))
    assert (found.verdict, found.ratio, found.ratio_interval, found.p) == ("same", 1, (1, 1), 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (STEADY[:4], STEADY, "repeats: 4 and 7; it takes 5 on both sides"),
        (STEADY[:3], scaled(9)[:3], "repeats: 3; it takes 5 on both sides"),
        ([1.0], [2.0], "repeats: 1; it takes 5 on both sides"),
        ([*STEADY[:4], NAN, INF], STEADY, "repeats: 4 and 7; it takes 5 on both sides"),
        ([0.0] * 7, [0.0] * 7, "both medians are 0"),
        ([-1.0] * 7, [1.0] * 7, "a median is negative"),
        ([1.0] * 7, [-1.0] * 7, "a median is negative"),
        ([0.0, *STEADY[1:]], STEADY, NO_INTERVAL),
        ([100, 100, 100, 100, 0.0], [100] * 4 + [200], NO_INTERVAL),
        (WIDE, WIDE, "the change may be -25 % to +33.3 %; more repeats narrow it down"),
        ([80, 90, 100, 110, 120, 130], [100, 110, 120, 130, 140, 150], "it may be chance (p = 0.13 over 1 rows)"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_unclear_with_its_reason(old: Any, new: Any, reason: str) -> None:
    found = judged(row(old, new))
    assert (found.verdict, found.reason) == ("unclear", reason)


def test_too_few_values_are_not_tested_and_no_row_pays_for_them() -> None:
    few, enough = judge([row(STEADY[:3], STEADY[:3]), row(new=scaled(2))])
    assert (few.p, few.p_adjusted, few.ratio) == (None, None, 1)
    assert enough.p == enough.p_adjusted == stats.smallest_p(7, 7)


def test_from_zero_to_more_is_a_change_beyond_any_threshold_that_no_percentage_tells() -> None:
    found = judged(row([0.0] * 7, STEADY, threshold=1000))
    assert (found.verdict, found.ratio, found.ratio_interval) == ("better", None, None)
    assert judged(row([0.0] * 7, STEADY, better="lower")).verdict == "worse"


def test_medians_and_ranks_that_disagree_are_unclear() -> None:
    """Most pairs are won by new, by a hair; but half of old is far above all of it."""
    old = [1.0 + number / 1000 for number in range(19)] + [10.0 + number / 1000 for number in range(20)]
    new = [5.0 + number / 1000 for number in range(400)] + [20.0 + number / 1000 for number in range(350)]
    found = judged(row(old, new))
    assert found.new_median < found.old_median
    assert stats.leaning(old, new) > 0
    assert found.p is not None
    assert found.p < stats.ALPHA
    assert (found.verdict, found.reason) == ("unclear", "the medians went one way and most of the values the other")


def test_with_too_many_rows_for_the_repeats_a_clear_change_is_unclear_and_the_repeats_it_takes_are_told() -> None:
    for size, rows, verdict in (
        (5, 6, "worse"),
        (5, 7, "unclear"),
        (6, 7, "worse"),
        (6, 24, "unclear"),
        (7, 24, "worse"),
    ):
        changed = row(STEADY[:size], scaled(0.5)[:size])
        found = judged(changed, *[row(STEADY[:size], STEADY[:size])] * (rows - 1))
        assert found.verdict == verdict, (size, rows)
        if verdict == "unclear":
            assert found.reason == f"{size} repeats prove nothing among {rows} rows; {size + 1} on both sides can"


def test_a_clear_shift_in_one_of_twenty_rows_is_found_with_seven_repeats_and_no_other_row_is_blamed() -> None:
    random = Random(5)

    def noisy(median: float) -> list[float]:
        return [random.gauss(median, median * 0.03) for _ in range(7)]

    for _ in range(5):
        rows = [row(noisy(100), noisy(100)) for _ in range(19)]
        verdicts = [found.verdict for found in judge([row(noisy(100), noisy(75)), *rows])]
        assert verdicts[0] == "worse"
        assert {*verdicts[1:]} <= {"same", "unclear"}
        assert verdicts.count("same") > 15


def test_noise_as_large_as_the_threshold_is_unclear_rather_than_same() -> None:
    random = Random(6)
    rows = [row(*([random.lognormvariate(0, 0.4) for _ in range(7)] for _ in range(2))) for _ in range(20)]
    verdicts = [found.verdict for found in judge(rows)]
    assert verdicts.count("unclear") == len(verdicts)


SIDE = st.lists(
    st.one_of(st.floats(0.01, 1e6), st.sampled_from([0.0, -1.0, NAN, INF, -INF, 1.0])), min_size=1, max_size=9
).filter(lambda values: any(map(math.isfinite, values)))


@given(
    st.lists(
        st.tuples(SIDE, SIDE, st.sampled_from(["higher", "lower"]), st.sampled_from([0.0, 15.0, 200.0])), max_size=4
    )
)
@example([([0.0], [0.0], "higher", 0.0)])
@settings(deadline=None, max_examples=60)
def test_any_values_get_a_verdict_that_keeps_its_promise(rows: list[Any]) -> None:
    given_ = [row(old, new, better=better, threshold=threshold) for old, new, better, threshold in rows]
    for values, found in zip(given_, judge(given_), strict=True):
        assert (found.reason is None) is (found.verdict != "unclear")
        assert (found.p is None) is (found.p_adjusted is None)
        if found.verdict in ("better", "worse"):
            assert found.p_adjusted is not None
            assert found.p_adjusted < stats.ALPHA
            assert abs(found.new_median - found.old_median) * 100 >= values.threshold * found.old_median
            rose = found.new_median > found.old_median
            assert rose is ((found.verdict == "better") is (values.better == "higher"))
        if found.verdict == "same":
            assert found.ratio_interval is not None
            assert all(abs(end - 1) * 100 <= values.threshold + 1e-6 for end in found.ratio_interval)


@given(st.floats(0.2, 5), st.sampled_from(["higher", "lower"]))
@settings(deadline=None, max_examples=30)
def test_which_way_is_better_only_decides_what_a_change_is_called(factor: float, better: str) -> None:
    other = "lower" if better == "higher" else "higher"
    turned = {"better": "worse", "worse": "better"}
    here, there = (judged(row(new=scaled(factor), better=which)).verdict for which in (better, other))
    assert there == turned.get(here, here)


def test_a_row_without_any_value_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="no values"):
        judge([row([NAN], STEADY)])
