"""The statistics: exact where they can be counted by hand, and keeping what they promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpctl.bench.results import stats

FIGURES = st.floats(0.001, 1e9, allow_nan=False)
COARSE = st.integers(0, 4).map(float)
"""Few different values: ties are the rule."""


def sides(
    values: st.SearchStrategy[float] = FIGURES, *, least: int = 1, most: int = 6
) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=least, max_size=most)


def enumerated(old: Sequence[float], new: Sequence[float]) -> Fraction:
    """Return the p by going through every split, with midranks from their definition."""
    pool = [*old, *new]
    ranks = [
        Fraction(sum(other < value for other in pool) * 2 + sum(other == value for other in pool) + 1, 2)
        for value in pool
    ]
    mean = Fraction(len(old) * (len(pool) + 1), 2)
    seen = abs(sum(ranks[: len(old)]) - mean)
    splits = [abs(sum(split) - mean) >= seen for split in itertools.combinations(ranks, len(old))]
    return Fraction(sum(splits), len(splits))


@given(sides(COARSE), sides(COARSE))
@example([1.0], [1.0])
@example([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0])
def test_p_is_what_going_through_every_split_gives(old: list[float], new: list[float]) -> None:
    assert stats.permutation_p(old, new) == pytest.approx(float(enumerated(old, new)), rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 9])
def test_one_side_wholly_above_the_other_has_the_smallest_p(size: int) -> None:
    low, high = [float(n) for n in range(size)], [float(n) for n in range(100, 100 + size)]
    assert stats.permutation_p(low, high) == min(1.0, 2 / math.comb(2 * size, size)) == stats.smallest_p(size, size)


@given(sides(), sides(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_p_is_a_chance_that_knows_neither_sides_nor_order_nor_unit(
    old: list[float], new: list[float], random: Random
) -> None:
    p = stats.permutation_p(old, new)
    assert stats.smallest_p(len(old), len(new)) <= p <= 1
    assert stats.permutation_p(new, old) == p
    shuffled = random.sample(old, len(old))
    assert stats.permutation_p(shuffled, new) == p
    assert stats.permutation_p([value * 1024 for value in old], [value * 1024 for value in new]) == p


def test_the_only_split_so_uneven_is_half_as_likely_as_two() -> None:
    assert stats.permutation_p([2.0], [1.0, 1.0]) == 1 / 3 == stats.smallest_p(1, 2)
    assert stats.permutation_p([3.0], [1.0, 2.0]) == 2 / 3


@given(FIGURES, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_values_that_are_all_equal_differ_by_chance(value: float, old: int, new: int) -> None:
    assert stats.permutation_p([value] * old, [value] * new) == 1


@pytest.mark.parametrize("sizes", [(31, 30), (45, 20), (20, 45)])
def test_where_splits_are_too_many_they_are_drawn_and_p_is_about_the_same(sizes: tuple[int, int]) -> None:
    """Against the normal approximation, which is good for so many values without ties."""
    random = Random(7)
    for shift in (0.0, 0.4, 0.8):
        old = [random.gauss(0, 1) for _ in range(sizes[0])]
        new = [random.gauss(shift, 1) for _ in range(sizes[1])]
        assert len(old) + len(new) > stats.EXACT_VALUES
        p = stats.permutation_p(old, new)
        assert p == stats.permutation_p(new, old)
        deviation = math.sqrt(len(old) * len(new) * (len(old) + len(new) + 1) / 12)
        expected = math.erfc(abs(stats.leaning(old, new)) / 2 / deviation / math.sqrt(2))
        assert p == pytest.approx(expected, abs=0.02)


def test_drawn_splits_never_make_p_0() -> None:
    low, high = [float(n) for n in range(40)], [float(n) for n in range(100, 140)]
    assert stats.permutation_p(low, high) == 1 / (stats.SHUFFLES + 1) == stats.smallest_p(40, 40)


@pytest.mark.parametrize(("old", "new"), [([], [1.0]), ([1.0], []), ([], [])])
def test_a_side_without_values_cannot_be_tested(old: list[float], new: list[float]) -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.permutation_p(old, new)


def test_comparisons_of_like_with_like_find_something_in_one_of_twenty_at_most() -> None:
    """Whole comparisons: 20 rows of 7 against 7, one verdict of change in any of them is a false alarm."""
    random, rounds = Random(20), 300
    alarms = 0
    for _ in range(rounds):
        ps = []
        for _ in range(20):
            # To one side and with a tail, as times and rates are.
            values = [random.lognormvariate(0, 0.3) for _ in range(14)]
            ps.append(stats.permutation_p(values[:7], values[7:]))
        alarms += min(stats.holm(ps)) < stats.ALPHA
    # What the worst luck in a thousand such simulations would give, if the rate were exactly ALPHA.
    assert alarms <= rounds * stats.ALPHA + 3.1 * math.sqrt(rounds * stats.ALPHA * (1 - stats.ALPHA))
    assert alarms > 0, "a test that never errs has no power either"


def test_without_holm_nearly_every_second_comparison_would_be_a_false_alarm() -> None:
    """So the test above can fail."""
    random, rounds = Random(21), 60
    alarms = 0
    for _ in range(rounds):
        rows = [[random.random() for _ in range(14)] for _ in range(20)]
        alarms += min(stats.permutation_p(values[:7], values[7:]) for values in rows) < stats.ALPHA
    assert alarms > rounds / 3


@given(st.lists(st.floats(0, 1, exclude_min=True), max_size=30))
def test_holm_never_lowers_a_p_keeps_their_order_and_lies_between_none_and_bonferroni(ps: list[float]) -> None:
    adjusted = stats.holm(ps)
    assert len(adjusted) == len(ps)
    for p, corrected in zip(ps, adjusted, strict=True):
        assert p <= corrected <= min(1.0, p * len(ps))
    for (p, corrected), (other, theirs) in itertools.combinations(zip(ps, adjusted, strict=True), 2):
        assert (p < other and corrected <= theirs) or (p > other and corrected >= theirs) or corrected == theirs


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=15), st.data())
def test_a_smaller_p_makes_no_row_less_significant(ps: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ps) - 1))
    smaller = [*ps]
    smaller[place] /= 2
    pairs = zip(stats.holm(smaller), stats.holm(ps), strict=True)
    assert all(after <= before for after, before in pairs)


def test_holm_of_the_textbook() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("rows", "needed"), [(0, 4), (1, 4), (2, 5), (6, 5), (7, 6), (23, 6), (24, 7), (85, 7), (86, 8)]
)
def test_repeats_needed_are_the_fewest_that_can_find_anything(rows: int, needed: int) -> None:
    assert stats.repeats_needed(rows) == needed
    for repeats in (needed - 1, needed):
        found = stats.holm([stats.smallest_p(repeats, repeats)] * max(rows, 1))[0] < stats.ALPHA
        assert found is (repeats == needed)


@given(sides(least=3, most=12))
@settings(deadline=None)
def test_the_interval_of_a_median_holds_it_lies_in_the_values_and_is_the_same_each_time(values: list[float]) -> None:
    interval = stats.median_interval(values)
    assert interval is not None
    low, high = interval
    assert min(values) <= low <= stats.median(values) <= high <= max(values)
    assert stats.median_interval(values[::-1]) == interval


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_two_values_have_no_interval(values: list[float]) -> None:
    assert stats.median_interval(values) is None
    assert stats.ratio_interval([1.0] * 5, values) is None
    assert stats.ratio_interval(values, [1.0] * 5) is None


def test_the_interval_of_many_values_is_the_narrower() -> None:
    random = Random(3)
    widths = []
    for size in (7, 70, 700):
        low, high = stats.median_interval([random.gauss(100, 10) for _ in range(size)]) or (0.0, 0.0)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] > 0


def test_the_interval_of_a_median_covers_the_true_one_most_of_the_time() -> None:
    random, rounds = Random(4), 150
    covered = 0
    for _ in range(rounds):
        low, high = stats.median_interval([random.gauss(100, 10) for _ in range(15)]) or (0.0, 0.0)
        covered += low <= 100 <= high
    assert covered / rounds >= 0.9


@given(sides(least=3, most=9), sides(least=3, most=9), st.sampled_from([0.5, 2.0, 1024.0]))
@settings(deadline=None, max_examples=40)
def test_the_interval_of_a_ratio_holds_it_and_grows_with_it(
    old: list[float], new: list[float], factor: float
) -> None:
    interval = stats.ratio_interval(old, new)
    assert interval is not None
    low, high = interval
    assert low <= stats.median(new) / stats.median(old) <= high
    assert min(new) / max(old) <= low <= high <= max(new) / min(old)
    assert stats.ratio_interval(old, [value * factor for value in new]) == (low * factor, high * factor)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_ratio_to_what_is_not_positive_has_no_interval(bad: float) -> None:
    assert stats.ratio_interval([1.0, bad, 1.0], [1.0, 1.0, 1.0]) is None
    assert stats.ratio_interval([1.0, 1.0, 1.0], [1.0, 0.0, 1.0]) == (0.0, 1.0)


@given(sides(most=50), st.floats(0, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = stats.percentile(values, percent)
    below = [value for value in values if value < found]
    assert found in values
    assert len(below) * 100 <= percent * len(values) * (1 + 1e-9)
    assert sum(value <= found for value in values) * 100 >= percent * len(values) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 5000), (99, 9900), (99.9, 9990), (99.99, 9999), (100, 10000)]
)
def test_percentiles_of_the_first_ten_thousand_numbers_are_themselves(percent: float, value: int) -> None:
    assert stats.percentile(range(10_000, 0, -1), percent) == value


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 100.5), ([1.0], math.nan)])
def test_there_are_no_percentiles_of_nothing_and_none_beyond_100(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match=r"no values|no percentage"):
        stats.percentile(values, percent)


def test_the_median_of_nothing_is_an_error_and_of_an_even_number_the_middle() -> None:
    assert stats.median([4, 1, 3, 2]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        stats.median([])
