"""The statistics of a few repeats, by the standard library alone.

Whatever draws at random is seeded anew in each call and draws from sorted values: the same values give the same
figures, in whatever order they were measured. docs/verdicts.md tells what becomes of them, and
docs/decisions/0009-verdicts-by-rank-permutation.md why they are these.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from random import Random

ALPHA = 0.05
"""The chance, at most, that a comparison of two results without any difference finds one in any of its rows."""

CONFIDENCE = 0.95
"""How sure an interval is."""

INTERVAL_VALUES = 3
"""Values from which on there is an interval."""

RESAMPLES = 2_000
SHUFFLES = 9_999
EXACT_VALUES = 60
"""Values of both sides together up to which every split is counted, in less than 0.1 s."""

SEED = 1


def median(values: Sequence[float]) -> float:
    """Return the median, of the values' unit; ValueError if there are none."""
    if not values:
        raise ValueError("no values")
    return float(statistics.median(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least of the values that at least so many percent of them do not exceed (nearest rank).

    So it is one that was observed, not something between two. ValueError if there are none.
    """
    return _percentile(sorted(values), percent)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    if not ordered:
        raise ValueError("no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is no percentage")
    # 99.9 % of 10,000 is the 9,990th value, not the one after it because 99.9 is a little more in binary.
    rank = math.ceil(round(percent * len(ordered) / 100, 9))
    return ordered[max(rank, 1) - 1]


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval (percentile method) of the median; None for fewer than three values."""
    if len(values) < INTERVAL_VALUES:
        return None
    return _middle(_resampled_medians(values, Random(SEED)))


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of (median of new) / (median of old), both sides drawn anew.

    None for fewer than three values on a side, and where old has values that are not positive: their ratio says
    nothing.
    """
    if min(len(old), len(new)) < INTERVAL_VALUES or min(old) <= 0:
        return None
    random = Random(SEED)
    below = _resampled_medians(old, random)
    above = _resampled_medians(new, random)
    return _middle([one / other for one, other in zip(above, below, strict=True)])


def _resampled_medians(values: Sequence[float], random: Random) -> list[float]:
    ordered, size = sorted(values), len(values)
    drawn = random.choices(ordered, k=size * RESAMPLES)
    # statistics.median takes five times as long, and this is all that a comparison spends its time on.
    low, high = (size - 1) // 2, size // 2
    medians = []
    for start in range(0, len(drawn), size):
        resample = sorted(drawn[start : start + size])
        medians.append((resample[low] + resample[high]) / 2)
    return medians


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval that leaves out the same number of values on either side."""
    ordered = sorted(values)
    outside = math.floor(len(ordered) * (1 - CONFIDENCE) / 2)
    return ordered[outside], ordered[-1 - outside]


def permutation_p(old: Sequence[float], new: Sequence[float]) -> float:
    """Return how often chance alone would deal the ranks at least as unevenly to two sides; two-sided, in (0, 1].

    The statistic is the rank sum, equal values having their mean rank. Every split is counted up to `EXACT_VALUES`
    values; beyond that so many are drawn, and the one that was seen counts among them, so that it is never 0.
    ValueError if a side is empty.
    """
    if not old or not new:
        raise ValueError("a side has no values")
    smaller, larger = sorted((old, new), key=len)
    ranks, size = doubled_midranks([*smaller, *larger]), len(smaller)
    centre = size * (len(ranks) + 1)
    seen = abs(sum(ranks[:size]) - centre)
    # In this order it does not matter which side is old, nor what was measured first.
    ranks.sort()
    if len(ranks) <= EXACT_VALUES:
        ways = _ways_by_sum(ranks, size)
        extreme = sum(count for total, count in ways.items() if abs(total - centre) >= seen)
        return extreme / math.comb(len(ranks), size)
    random = Random(SEED)
    extreme = sum(abs(sum(random.sample(ranks, size)) - centre) >= seen for _ in range(SHUFFLES))
    return (extreme + 1) / (SHUFFLES + 1)


def doubled_midranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value, from 1 on, equal ones sharing their mean: so they stay whole numbers."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    before = 0
    for _, tied in itertools.groupby(order, key=values.__getitem__):
        places = list(tied)
        for place in places:
            ranks[place] = 2 * before + len(places) + 1
        before += len(places)
    return ranks


def _ways_by_sum(ranks: Sequence[int], size: int) -> Mapping[int, int]:
    """Return in how many ways so many of the ranks add up to each sum."""
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(size))]
    for rank in ranks:
        for taken in range(size, 0, -1):  # downwards, so that no rank is taken twice
            here = ways[taken]
            for total, count in ways[taken - 1].items():
                here[total + rank] = here.get(total + rank, 0) + count
    return ways[size]


def leaning(old: Sequence[float], new: Sequence[float]) -> int:
    """Return which way the ranks lean: positive if new's are the higher ones; pairs won less pairs lost."""
    return sum((after > before) - (after < before) for before in old for after in new)


def smallest_p(old: int, new: int) -> float:
    """Return the least p that `permutation_p` can give for so many values: one side wholly above the other.

    The opposite split is as uneven, so there are two of them; but where the sides are of unequal size and values are
    tied, it may be less so, and then there is one.
    """
    exact = min(1.0, (2 if old == new else 1) / math.comb(old + new, old))
    return exact if old + new <= EXACT_VALUES else max(exact, 1 / (SHUFFLES + 1))


def repeats_needed(rows: int) -> int:
    """Return with how many repeats a side a row can be found at all among so many, after Holm's correction."""
    return next(size for size in itertools.count(1) if max(rows, 1) * 2 / math.comb(2 * size, size) < ALPHA)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values after Holm's correction, in their order.

    Whoever calls significant what is below `ALPHA` then errs in any of them with that chance at most.
    """
    adjusted = [0.0] * len(ps)
    least = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = least
    return adjusted
