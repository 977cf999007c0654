"""A benchmark's result as JUnit XML: a suite per link, a case per workload on it, with the time that it took.

The shape is what Jenkins, GitLab and pytest agree on. A case passes if there is a figure and nothing failed; after a
broken link the cases that were not run are skipped, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vpctl.bench.results.result import BenchResult, Failure, LinkRecord, Sample

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped: most control characters, lone surrogates."""


def junit_xml(result: BenchResult) -> str:
    """Return the whole document, its declaration included."""
    root = Element("testsuites", name=_clean(f"vpctl bench {result.topology}"))
    suites = [_suite(root, result, link) for link in result.links]
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    # Of the whole run, boots included: what a CI job waits for.
    root.set("time", f"{result.seconds:.3f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, result: BenchResult, link: LinkRecord) -> Element:
    name = _clean(f"{link.name} ({link.kind})")
    suite = SubElement(root, "testsuite", name=name)
    properties = SubElement(suite, "properties")
    for key, value in _properties(result, link):
        SubElement(properties, "property", name=key, value=_clean(value))
    cases = [_case(suite, result, link, workload) for workload in _workloads(result, link)]
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", "0")
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")
    if (began := _timestamp(result.started)) is not None:
        suite.set("timestamp", began)
    return suite


def _properties(result: BenchResult, link: LinkRecord) -> list[tuple[str, str]]:
    """Return what the figures depend on."""
    host, settings = result.host, result.settings
    found = [
        ("vpctl", result.vpctl_version),
        ("topology", result.topology),
        ("kind", link.kind),
        ("endpoints", " ".join(link.endpoints)),
        ("mtu", str(link.mtu)),
        ("queues", str(link.queues)),
        ("host.cpu", host.cpu),
        ("host.cores", str(host.cores)),
        ("host.memory", str(host.memory)),
        ("host.kernel", host.kernel),
        ("host.load_before", " ".join(f"{load:.2f}" for load in host.load_before)),
        ("host.load_after", " ".join(f"{load:.2f}" for load in host.load_after)),
        ("settings.repeats", str(settings.repeats)),
        ("settings.duration", f"{settings.duration} s"),
        ("settings.quick", "yes" if settings.quick else "no"),
    ]
    for vm in host.vms:
        if vm.name in link.endpoints:
            told = ("qemu_version", "accelerator", "cpu_model", "machine", "cpus", "memory", "kernel")
            found += [(f"{vm.name}.{name}", str(getattr(vm, name))) for name in told]
    return found


def _workloads(result: BenchResult, link: LinkRecord) -> list[str]:
    """Return the workloads that were asked for, in that order, and any other that something is known of."""
    place = (link.name, link.kind)
    known = [*result.settings.workloads]
    for entries in (result.samples, result.failures, result.skipped):
        known += [entry.workload for entry in entries if (entry.link, entry.kind) == place]
    return list(dict.fromkeys(known))


def _case(suite: Element, result: BenchResult, link: LinkRecord, workload: str) -> Element:
    place = (link.name, link.kind, workload)
    seconds = sum(t.seconds for t in result.timings if (t.link, t.kind, t.workload) == place)
    case = SubElement(
        suite,
        "testcase",
        classname=_clean(f"{result.topology}.{link.name}.{link.kind}"),
        name=_clean(workload),
        time=f"{seconds:.3f}",
    )
    samples = [s for s in result.samples if (s.link, s.kind, s.workload) == place]
    failures = [f for f in result.failures if (f.link, f.kind, f.workload) == place]
    skips = [s.reason for s in result.skipped if (s.link, s.kind, s.workload) == place]
    if failures:
        failure = SubElement(case, "failure", message=_clean(failures[0].message), type="measurement")
        failure.text = _clean("\n".join([*map(_failure_line, failures), *(f"skipped: {each}" for each in skips)]))
    elif skips:
        SubElement(case, "skipped", message=_clean("; ".join(skips)))
    elif not samples:
        # Never a silent success: it was asked for, and nothing came of it.
        SubElement(case, "failure", message="there is no figure, and no reason was given", type="measurement")
    if samples:
        SubElement(case, "system-out").text = _clean(_figures(samples))
    return case


def _failure_line(failure: Failure) -> str:
    what = [failure.workload, failure.variant, failure.source and f"{failure.source} to {failure.target}"]
    when = "warm-up" if failure.round == 0 else f"repeat {failure.round}"
    hint = f" (hint: {failure.hint})" if failure.hint else ""
    return f"{' '.join(part for part in what if part)}, {when}: {failure.message}{hint}"


def _figures(samples: Sequence[Sample]) -> str:
    """Return a line per row, its unit as it is in the result, for who greps."""
    lines = []
    for sample in samples:
        variant = f" {sample.variant}" if sample.variant is not None else ""
        interval = f" [{sample.interval[0]:.6g}, {sample.interval[1]:.6g}]" if sample.interval else ""
        lines.append(
            f"{sample.workload}{variant} {sample.source} to {sample.target}: {sample.metric} "
            f"{sample.median:.6g} {sample.unit}{interval}, {len(sample.values)} repeats"
        )
    return "\n".join(lines)


def _timestamp(started: str) -> str | None:
    """Return the start as readers of JUnit want it, without an offset; None if it is no time."""
    try:
        return datetime.fromisoformat(started).strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None


def _clean(text: str) -> str:
    """Return a text with what XML cannot hold written as Python would: `\\x1b`."""
    return FORBIDDEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
