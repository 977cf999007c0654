"""A benchmark's result for people: a line per row with its interval and a bar, link by link or kind beneath kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from vpctl.bench.results.compare import moved
from vpctl.bench.results.result import BenchResult, Comparison, LinkRecord, RowKey, Sample
from vpctl.cli.view.columns import NARROWEST, Bar, Cell, Column, Direction, lay_out, paragraph, styled
from vpctl.cli.view.figures import ASCII, UNICODE, Marks, figure, scale_for

if TYPE_CHECKING:
    from rich.text import Text

BAR = 20

BY_LINK = (
    Column(title="WORKLOAD", least=9),
    Column(title="DIRECTION", least=9),
    Column(title="VARIANT", least=5),
    Column(title="MEDIAN", right=True),
    Column(title="95 % INTERVAL"),
    Column(title="N", right=True),
    Column(title="", least=10, most=BAR),
)

BY_KIND = (
    Column(title="KIND", least=16),
    Column(title="MEDIAN", right=True),
    Column(title="95 % INTERVAL"),
    Column(title="N", right=True),
    Column(title="RATIO", right=True),
    Column(title="VERDICT"),
    Column(title="", least=10, most=BAR),
)


def bench_table(result: BenchResult, *, width: int = 80, ascii: bool = False) -> Text:
    """Return a result's rows in so many columns; where kinds were compared, kind beneath kind with the verdicts.

    Bars are relative to the largest of the same workload and metric. Failures and skips stand at the end.
    """
    marks = ASCII if ascii else UNICODE
    width = max(width, NARROWEST)
    body = _kinds(result, width, marks) if result.comparisons else _links(result, width, marks)
    lines = [*paragraph(_summary(result), width=width), "", *body, *_trouble(result, width)]
    return styled(lines, marks, heading="(?:WORKLOAD|KIND) ")


def _summary(result: BenchResult) -> str:
    """Return what the figures depend on, as short as it can be told."""
    settings, host = result.settings, result.host
    vms = "; ".join(dict.fromkeys(f"QEMU {vm.qemu_version} {vm.accelerator}, Linux {vm.kernel}" for vm in host.vms))
    repeats = f"{settings.repeats} repeat{'s' if settings.repeats != 1 else ''} of {settings.duration} s"
    quick = " (quick)" if settings.quick else ""
    cores = f"{host.cores} core{'s' if host.cores != 1 else ''}"
    return f"{result.topology}: {repeats}{quick}; {vms}; {cores} of {host.cpu}"


def _links(result: BenchResult, width: int, marks: Marks) -> list[str]:
    """Return a table for each link that has rows."""
    lines: list[str] = []
    name, largest = namer(result.samples), _largest(result.samples)
    for link in result.links:
        samples = [sample for sample in result.samples if (sample.link, sample.kind) == (link.name, link.kind)]
        if not samples:
            continue
        rows: list[Sequence[Cell]] = []
        for sample in samples:
            what = name(sample), Direction(source=sample.source, target=sample.target), sample.variant or ""
            rows.append((*what, *_measured(sample, marks), _bar(sample, largest)))
        heading, *table = lay_out(BY_LINK, rows, width=width, marks=marks)
        lines += [*paragraph(_link(link), width=width), heading]
        lines += _with_percentiles(samples, table, width, marks)
        lines.append("")
    return lines


def _link(link: LinkRecord) -> str:
    queues = f"{link.queues} queue{'s' if link.queues != 1 else ''}"
    return f"{link.name}: {link.kind} between {' and '.join(link.endpoints)}, mtu {link.mtu}, {queues}"


def _kinds(result: BenchResult, width: int, marks: Marks) -> list[str]:
    """Return a table for each workload, direction and variant: the kinds beneath one another."""
    records = {link.name: link for link in result.links}
    first = records[result.comparisons[0].old_link]
    groups: dict[RowKey, list[Sample]] = {}
    for sample in result.samples:
        # As the baseline calls it, whose VMs may be others.
        groups.setdefault(moved(sample.key, records[sample.link], first), []).append(sample)
    compared: dict[RowKey, dict[str, Comparison]] = {}
    for row in result.comparisons:
        key = RowKey(first.name, first.kind, row.workload, row.metric, row.source, row.target, row.variant)
        compared.setdefault(key, {})[row.new_link] = row
    name, label = namer(result.samples), _labeller(result.links)
    lines: list[str] = []
    for key, samples in groups.items():
        verdicts = compared.get(key, {})
        variant = f" {key.variant}" if key.variant is not None else ""
        title = f"{name(samples[0])} {key.source}{marks.arrow}{key.target}{variant} ({samples[0].better} is better)"
        lines += paragraph(title, width=width)
        table = _group(samples, verdicts, label=label, largest=_largest(result.samples), width=width - 2, marks=marks)
        lines += [*(f"  {line}" for line in table), ""]
    return [*lines, *reasons(result.comparisons, width, lambda row: label(row.new_link, row.new_kind))]


def _group(
    samples: Sequence[Sample],
    verdicts: Mapping[str, Comparison],
    *,
    label: Callable[[str, str], str],
    largest: Mapping[tuple[str, str], float],
    width: int,
    marks: Marks,
) -> list[str]:
    """Return one workload's table: the kinds with figures, then those without."""
    rows: list[Sequence[Cell]] = []
    for sample in samples:
        judged = _judged(verdicts.get(sample.link))
        rows.append((label(sample.link, sample.kind), *_measured(sample, marks), *judged, _bar(sample, largest)))
    for row in verdicts.values():
        if row.new_median is None:
            rows.append((label(row.new_link, row.new_kind), "-", "", "", "", row.verdict, Bar(fraction=None)))
    heading, *table = lay_out(BY_KIND, rows, width=width, marks=marks)
    measured = _with_percentiles(samples, table[: len(samples)], width, marks)
    return [heading, *measured, *table[len(samples) :]]


def _judged(row: Comparison | None) -> tuple[str, str]:
    """Return ratio and verdict; the baseline has neither."""
    if row is None:
        return "", ""
    return ("" if row.ratio is None else f"{row.ratio:.2f}x"), row.verdict


def reasons(rows: Iterable[Comparison], width: int, label: Callable[[Comparison], str]) -> list[str]:
    """Return why rows are unclear or missing, rows of the same reason together."""
    told: dict[tuple[str, str], list[Comparison]] = {}
    for row in rows:
        if row.reason is not None:
            told.setdefault((row.verdict, row.reason), []).append(row)
    lines = []
    for (verdict, reason), concerned in told.items():
        names = [f"{label(row)} {row_words(row)}" for row in concerned]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines += paragraph(f"{verdict}: {shown}: {reason}", width=width)
    return lines


def row_words(row: Comparison) -> str:
    """Return a row's name for a sentence, in ASCII as stderr may be."""
    variant = f" {row.variant}" if row.variant is not None else ""
    return f"{row.workload}{variant} {row.source} to {row.target}"


def _measured(sample: Sample, marks: Marks) -> tuple[str, str, str]:
    """Return median, interval and number of values as cells."""
    scale = scale_for(sample.median, sample.unit, marks)
    interval = " .. ".join(scale.number(end) for end in sample.interval) if sample.interval is not None else ""
    return scale.figure(sample.median), interval, str(len(sample.values))


def _with_percentiles(samples: Sequence[Sample], table: Sequence[str], width: int, marks: Marks) -> list[str]:
    """Return the lines of a table, each followed by its row's percentiles if there are any."""
    lines = []
    for sample, line in zip(samples, table, strict=True):
        lines.append(line)
        shown = ((name, value) for name, value in _percentiles(sample) if value is not None)
        told = [f"{name} {figure(value, sample.unit, marks)}" for name, value in shown]
        if told:
            of = f" of {sample.observations:,} observations" if sample.observations is not None else ""
            lines += [f"    {part}" for part in paragraph(", ".join(told) + of, width=width - 4)]
    return lines


def _percentiles(sample: Sample) -> tuple[tuple[str, float | None], ...]:
    return ("p50", sample.p50), ("p99", sample.p99), ("p99.9", sample.p999)


def _largest(samples: Iterable[Sample]) -> dict[tuple[str, str], float]:
    """Return the largest median of each workload and metric."""
    largest: dict[tuple[str, str], float] = {}
    for sample in samples:
        group = (sample.workload, sample.metric)
        if math.isfinite(sample.median):
            largest[group] = max(largest.get(group, 0.0), sample.median)
    return largest


def _bar(sample: Sample, largest: Mapping[tuple[str, str], float]) -> Bar:
    most = largest.get((sample.workload, sample.metric), 0.0)
    return Bar(fraction=sample.median / most if 0 < sample.median <= most else 0.0)


def namer(rows: Iterable[Sample | Comparison]) -> Callable[[Sample | Comparison], str]:
    """Return how rows are named: the workload, with the metric where a workload has several."""
    metrics: dict[str, set[str]] = {}
    for row in rows:
        metrics.setdefault(row.workload, set()).add(row.metric)
    return lambda row: row.workload if len(metrics[row.workload]) == 1 else f"{row.workload} {row.metric}"


def _labeller(links: Sequence[LinkRecord]) -> Callable[[str, str], str]:
    """Return how a link is called where kinds are compared: by its kind, and by its name if that is not enough."""
    kinds = [link.kind for link in links]
    return lambda link, kind: kind if kinds.count(kind) == 1 else link


def _trouble(result: BenchResult, width: int) -> list[str]:
    """Return the failures and skips."""
    lines = []
    for failure in result.failures:
        row = [failure.workload, failure.variant, failure.source and f"{failure.source} to {failure.target}"]
        when = "warm-up" if failure.round == 0 else f"repeat {failure.round}"
        what = " ".join(part for part in row if part)
        lines += paragraph(f"failed: {failure.link} ({failure.kind}) {what}, {when}: {failure.message}", width=width)
    for skip in result.skipped:
        lines += paragraph(f"skipped: {skip.link} ({skip.kind}) {skip.workload}: {skip.reason}", width=width)
    return lines
