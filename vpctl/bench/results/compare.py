"""Two results against each other, and the kinds of one result: which rows belong together, and what each comes to.

What may be compared is decided here, what the values say in `vpctl.bench.results.verdict`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from vpctl.bench.results.result import BenchResult, Comparison, Failure, LinkRecord, RowKey, Sample
from vpctl.bench.results.stats import median
from vpctl.bench.results.verdict import Values, finite, judge
from vpctl.errors import NotFoundError, UsageError

DEFAULT_THRESHOLD = 15.0
"""Percent; more than one host shows from one run to the next, as a rule."""

LARGEST_THRESHOLD = 1000.0

REGRESSIONS = ("worse", "missing")
"""Verdicts that end `compare` with exit code 7."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """The least change that counts, in percent of the old median."""

    every: float = DEFAULT_THRESHOLD
    named: Mapping[str, float] = field(default_factory=dict)
    """By workload or metric."""

    def of(self, workload: str, metric: str) -> float:
        """Return the threshold of a row; a workload's own wins over its metric's, as the narrower one."""
        return self.named.get(workload, self.named.get(metric, self.every))


def parse_thresholds(words: Iterable[str], known: Collection[str]) -> Thresholds:
    """Return what `--threshold PERCENT` and `--threshold NAME=PERCENT` say; of several for the same, the last counts.

    `known` are the names of workloads and metrics. Raises UsageError for any other and for what is no percentage.
    """
    every, named = DEFAULT_THRESHOLD, {}
    for word in words:
        name, equals, number = word.rpartition("=")
        try:
            percent = float(number)
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= LARGEST_THRESHOLD:
            raise UsageError(
                f"`{word}` is no threshold: `{number}` is no percentage from 0 to {LARGEST_THRESHOLD:.0f}",
                hint="--threshold 10, or --threshold rtt=25",
            )
        if not equals:
            every = percent
        elif name in known:
            named[name] = percent
        else:
            names = ", ".join(f"`{each}`" for each in sorted(known))
            raise UsageError(f"no workload or metric named `{name}`", hint=f"these are in the results: {names}")
    return Thresholds(every=every, named=named)


def names_in(*results: BenchResult) -> set[str]:
    """Return the workloads and metrics that a threshold can be given for."""
    return {name for result in results for sample in result.samples for name in (sample.workload, sample.metric)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """A row of the old side, and its like on the new side, or why there is none."""

    old: Sample
    key: RowKey
    """What the new side's row is, or would be, called."""
    new: Sample | None
    reason: str | None = None


def rows_of_two_results(old: BenchResult, new: BenchResult, thresholds: Thresholds | None = None) -> list[Comparison]:
    """Judge every row that OLD has a figure of and NEW was asked for, in OLD's order.

    Raises NotFoundError if there is none. `notes_of_two_results` tells what is not compared.
    """
    theirs = _figures(new.samples)
    pairs = []
    for key, sample in _figures(old.samples).items():
        if key in theirs or _asked_for(key, old, new):
            pairs.append(_pair(sample, key, theirs, new))
    if not pairs:
        raise NotFoundError(
            "the two results have no row in common",
            hint=f"OLD has {_listed(_figures(old.samples))}; NEW has {_listed(theirs)}",
        )
    return _compared(pairs, thresholds or Thresholds())


def rows_of_kinds(
    result: BenchResult, thresholds: Thresholds | None = None, *, baseline: str | None = None
) -> list[Comparison]:
    """Judge every other link of a result against the baseline link (None: the first), link after link.

    Rows belong together by workload, metric, variant and direction; the latter by the place of the ends in their
    links, for each kind may have a pair of VMs of its own. A row that the baseline has and another link lacks is
    `missing`, with that link's reason. Raises NotFoundError if there is no link of the baseline's name.
    """
    first = next((link for link in result.links if baseline in (None, link.name)), None)
    if first is None:
        raise NotFoundError(
            f"no link named `{baseline}` in the result",
            hint=f"links are {', '.join(f'`{link.name}`' for link in result.links) or 'none'}",
        )
    figures = _figures(result.samples)
    pairs = [
        _pair(sample, moved(key, first, link), figures, result)
        for link in result.links
        if link is not first
        for key, sample in figures.items()
        if key.link == first.name
    ]
    return _compared(pairs, thresholds or Thresholds())


def moved(key: RowKey, old: LinkRecord, new: LinkRecord) -> RowKey:
    """Return what a row of one link is called on another."""
    ends = dict(zip(old.endpoints, new.endpoints, strict=True))
    source, target = (ends.get(vm, vm) for vm in (key.source, key.target))
    return key._replace(link=new.name, kind=new.kind, source=source, target=target)


def is_regression(comparison: Comparison) -> bool:
    """Whether a row makes the newer side the worse one."""
    return comparison.verdict in REGRESSIONS


def notes_of_two_results(old: BenchResult, new: BenchResult) -> list[str]:
    """Return sentences about what is in one result only, and about repeats of compared rows that failed in NEW."""
    ours, theirs = _figures(old.samples), _figures(new.samples)
    notes = []
    left = [key for key in ours if key not in theirs and not _asked_for(key, old, new)]
    if left:
        notes.append(f"only OLD has {_listed(left)}")
    more = [key for key in theirs if key not in ours]
    if more:
        notes.append(f"only NEW has {_listed(more)}")
    for key in ours:
        failed = [failure for failure in new.failures if _concerns(failure, key)] if key in theirs else []
        if failed:
            notes.append(f"NEW has fewer figures of {row_name(key)}: {len(failed)} failed, {failed[0].message}")
    return notes


def row_name(key: RowKey) -> str:
    """Return a row's name for a sentence."""
    variant = f" {key.variant}" if key.variant is not None else ""
    return f"{key.workload}{variant} {key.source} to {key.target} on {key.link} ({key.kind})"


def _listed(keys: Iterable[RowKey]) -> str:
    """Return the workloads of rows, link by link."""
    links: dict[str, dict[str, None]] = {}
    for key in keys:
        links.setdefault(f"{key.link} ({key.kind})", {})[key.workload] = None
    return "; ".join(f"{', '.join(workloads)} on {link}" for link, workloads in links.items()) or "no figures"


def _figures(samples: Iterable[Sample]) -> dict[RowKey, Sample]:
    """Return the rows that have a figure at all."""
    return {sample.key: sample for sample in samples if finite(sample.values)}


def _pair(sample: Sample, key: RowKey, theirs: Mapping[RowKey, Sample], result: BenchResult) -> _Pair:
    if key in theirs:
        if theirs[key].unit != sample.unit:
            raise UsageError(f"{row_name(key)} is in {sample.unit} in one result, in {theirs[key].unit} in the other")
        return _Pair(old=sample, key=key, new=theirs[key])
    return _Pair(old=sample, key=key, new=None, reason=_why_missing(key, result) or _nearby(key, result))


def _asked_for(key: RowKey, old: BenchResult, new: BenchResult) -> bool:
    """Whether NEW should have had a row of OLD's."""
    link = any((link.name, link.kind) == (key.link, key.kind) for link in new.links)
    if not link or key.workload not in new.settings.workloads:
        return False
    # A quick run measures fewer variants; what it says nothing of, it was not asked for.
    return old.settings.quick or not new.settings.quick or _why_missing(key, new) is not None


def _concerns(failure: Failure, key: RowKey) -> bool:
    """Whether a failure is of this row; what it leaves open fits any."""
    theirs = (failure.source, failure.target, failure.variant)
    return (failure.link, failure.kind, failure.workload) == (key.link, key.kind, key.workload) and all(
        here is None or here == there
        for here, there in zip(theirs, (key.source, key.target, key.variant), strict=True)
    )


def _why_missing(key: RowKey, result: BenchResult) -> str | None:
    """Return a result's own reason for a row without a figure.

    Another direction's failure may be this one's too, as one measurement can give two rows.
    """
    place = (key.link, key.kind, key.workload)
    own = [failure.message for failure in result.failures if _concerns(failure, key)]
    skips = [skip.reason for skip in result.skipped if (skip.link, skip.kind, skip.workload) == place]
    same = [failure.message for failure in result.failures if (failure.link, failure.kind, failure.workload) == place]
    return next(iter([*own, *skips, *same]), None)


def _nearby(key: RowKey, result: BenchResult) -> str:
    """Say what else failed on the link, if there is no reason: `cpu` has none of its own, as `tcp` measures it."""
    for failure in result.failures:
        if (failure.link, failure.kind) == (key.link, key.kind):
            return f"{failure.workload} failed: {failure.message}"
    return "no figure, and no reason given"


def _compared(pairs: Sequence[_Pair], thresholds: Thresholds) -> list[Comparison]:
    """Judge all pairs together, as Holm's correction is over all of them; the missing ones have nothing to judge."""
    judged = iter(
        judge(
            [
                Values(
                    old=tuple(pair.old.values),
                    new=tuple(pair.new.values),
                    better=pair.old.better,
                    threshold=thresholds.of(pair.old.workload, pair.old.metric),
                )
                for pair in pairs
                if pair.new is not None
            ]
        )
    )
    comparisons = []
    for pair in pairs:
        row = _bare(pair, thresholds)
        if pair.new is not None:
            row = row.model_copy(update=asdict(next(judged)))
        comparisons.append(row)
    return comparisons


def _bare(pair: _Pair, thresholds: Thresholds) -> Comparison:
    """Return a row as it is if there is nothing on the new side."""
    old = pair.old
    return Comparison(
        workload=old.workload,
        metric=old.metric,
        unit=old.unit,
        better=old.better,
        variant=old.variant,
        source=old.source,
        target=old.target,
        old_link=old.link,
        old_kind=old.kind,
        new_link=pair.key.link,
        new_kind=pair.key.kind,
        old_median=median(finite(old.values)),
        threshold_percent=thresholds.of(old.workload, old.metric),
        verdict="missing",
        reason=pair.reason,
    )
