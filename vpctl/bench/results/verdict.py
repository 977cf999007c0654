"""What the values of two sides come to: better, worse, same or unclear, one verdict a row.

`better`, `worse`: the ranks differ by more than chance (permutation test, p below 0.05 after Holm's correction over
all rows that were tested), *and* the median changed by the threshold or more, *and* both sides have five values.
`same`: the median changed by less than the threshold, and so does the whole 95 % interval of the ratio of medians.
It says that there is no change that counts, not merely that none was found.
`unclear`: everything else, always with the reason.

Values that are no finite numbers count as not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vpctl.bench.results import stats
from vpctl.bench.results.result import Better

LEAST_VALUES = 5
"""Values that a side must have to be judged. With four, one row alone can just be told from chance, two cannot."""

Verdict = Literal["better", "worse", "same", "unclear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """The values of one row on both sides, and what counts as a change."""

    old: tuple[float, ...]
    new: tuple[float, ...]
    better: Better
    threshold: float
    """Percent of old's median."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What is said of a row; ratios are new / old."""

    old_median: float
    new_median: float
    ratio: float | None
    """None where old's median is not positive."""
    ratio_interval: tuple[float, float] | None
    p: float | None
    """None for rows of fewer than five values on a side: they are not tested, and no row pays for them."""
    p_adjusted: float | None
    verdict: Verdict
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    """A row with everything computed that its verdict depends on."""

    row: Values
    old: float
    new: float
    ratio: float | None
    interval: tuple[float, float] | None
    p_adjusted: float
    tested: int
    """Rows that were."""

    @property
    def changed(self) -> bool:
        """Whether the median changed by as much as counts; from 0 to anything always does."""
        # Not by the ratio: 115 / 100 - 1 is less than 0.15.
        return self.new != self.old and abs(self.new - self.old) * 100 >= self.row.threshold * self.old

    @property
    def found(self) -> bool:
        return self.p_adjusted < stats.ALPHA


def finite(values: Iterable[float]) -> tuple[float, ...]:
    """Return the values that are numbers."""
    return tuple(value for value in values if math.isfinite(value))


def judge(rows: Sequence[Values]) -> list[Judgement]:
    """Judge the rows of one comparison together; each needs a finite value on both sides, or it is a ValueError."""
    rows = [
        Values(old=finite(row.old), new=finite(row.new), better=row.better, threshold=row.threshold) for row in rows
    ]
    ps = {
        place: stats.permutation_p(row.old, row.new)
        for place, row in enumerate(rows)
        if min(len(row.old), len(row.new)) >= LEAST_VALUES
    }
    adjusted = dict(zip(ps, stats.holm(list(ps.values())), strict=True))
    return [
        _judgement(row, p=ps.get(place), p_adjusted=adjusted.get(place), tested=len(ps))
        for place, row in enumerate(rows)
    ]


def _judgement(row: Values, *, p: float | None, p_adjusted: float | None, tested: int) -> Judgement:
    old, new = stats.median(row.old), stats.median(row.new)
    ratio = new / old if old > 0 else None
    interval = stats.ratio_interval(row.old, row.new)
    verdict: Verdict
    reason: str | None
    if p_adjusted is None:
        verdict, reason = "unclear", _too_few(row)
    else:
        evidence = _Evidence(
            row=row, old=old, new=new, ratio=ratio, interval=interval, p_adjusted=p_adjusted, tested=tested
        )
        verdict, reason = _verdict(evidence)
    return Judgement(
        old_median=old,
        new_median=new,
        ratio=ratio,
        ratio_interval=interval,
        p=p,
        p_adjusted=p_adjusted,
        verdict=verdict,
        reason=reason,
    )


def _too_few(row: Values) -> str:
    counts = str(len(row.old)) if len(row.old) == len(row.new) else f"{len(row.old)} and {len(row.new)}"
    return f"repeats: {counts}; it takes {LEAST_VALUES} on both sides"


def _verdict(evidence: _Evidence) -> tuple[Verdict, str | None]:
    row, interval = evidence.row, evidence.interval
    if evidence.old < 0 or evidence.new < 0:
        return "unclear", "a median is negative"
    if evidence.old == evidence.new == 0:
        return "unclear", "both medians are 0"
    if evidence.changed and evidence.found:
        rose = evidence.new > evidence.old
        if rose is not (stats.leaning(row.old, row.new) > 0):
            return "unclear", "the medians went one way and most of the values the other"
        return ("better" if rose is (row.better == "higher") else "worse"), None
    if evidence.changed:
        return "unclear", _not_found(evidence)
    if interval is None:
        return "unclear", "the old side has values that are not positive, so the change has no interval"
    low, high = (_percent(end) for end in interval)
    if -row.threshold <= low and high <= row.threshold:
        return "same", None
    return "unclear", f"the change may be {low:+.3g} % to {high:+.3g} %; more repeats narrow it down"


def _not_found(evidence: _Evidence) -> str:
    sizes = len(evidence.row.old), len(evidence.row.new)
    if evidence.tested * stats.smallest_p(*sizes) >= stats.ALPHA:
        repeats = str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]}"
        needed = stats.repeats_needed(evidence.tested)
        return f"{repeats} repeats prove nothing among {evidence.tested} rows; {needed} on both sides can"
    return f"it may be chance (p = {evidence.p_adjusted:.2g} over {evidence.tested} rows)"


def _percent(ratio: float) -> float:
    # Rounded, for what a binary fraction adds to 0.85 - 1 must not put it beyond 15 %.
    return round((ratio - 1) * 100, 9)
