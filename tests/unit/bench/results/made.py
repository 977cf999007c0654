"""Results of benchmarks that never ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpctl.bench.results.result import (
    BenchResult,
    Better,
    Failure,
    GuestRecord,
    HostRecord,
    LinkRecord,
    Sample,
    Settings,
    Skip,
    Timing,
)
from vpctl.bench.results.stats import median, median_interval, percentile

UNITS: dict[str, tuple[str, Better]] = {
    "throughput": ("Mbit/s", "higher"),
    "rate": ("packets/s", "higher"),
    "rtt": ("µs", "lower"),
    "gap": ("ms", "lower"),
    "cpu": ("s/Gbit", "lower"),
}

METRICS = {
    "ping": "rtt",
    "tcp": "throughput",
    "tcp-bidir": "throughput",
    "udp": "throughput",
    "pktgen": "rate",
    "cpu": "cpu",
    "outage": "gap",
}

STEADY = (100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8)
"""Seven repeats that differ by a percent."""


def scaled(factor: float, values: Sequence[float] = STEADY) -> list[float]:
    """Return the values times a factor."""
    return [round(value * factor, 6) for value in values]


def made_sample(
    workload: str = "tcp",
    values: Sequence[float] = STEADY,
    *,
    link: str = "lan0",
    kind: str = "stream",
    ends: tuple[str, str] = ("vm1", "vm2"),
    variant: str | None = None,
    observations: Sequence[float] = (),
    **more: Any,
) -> Sample:
    """Return a row as the runner would make it of these values."""
    metric = METRICS[workload]
    unit, better = UNITS[metric]
    percentiles: dict[str, Any] = {}
    if observations:
        shown = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
        percentiles = {name: percentile(observations, percent) for name, percent in shown.items()}
        percentiles["observations"] = len(observations)
        if len(observations) >= 10_000:
            percentiles["p999"] = percentile(observations, 99.9)
    made = {
        "link": link,
        "kind": kind,
        "workload": workload,
        "metric": metric,
        "unit": unit,
        "better": better,
        "source": ends[0],
        "target": ends[1],
        "variant": variant,
        "values": list(values),
        "median": median(values),
        "interval": median_interval(values),
    }
    return Sample(**{**made, **percentiles, **more})


def made_link(name: str = "lan0", kind: str = "stream", **more: Any) -> LinkRecord:
    """Return a link between vm1 and vm2."""
    return LinkRecord(**{"name": name, "kind": kind, "endpoints": ("vm1", "vm2"), "mtu": 1500, "queues": 1, **more})


def made_guest(name: str, **more: Any) -> GuestRecord:
    """Return a VM of a made-up host."""
    given = {
        "name": name,
        "qemu_version": "7.2.22",
        "accelerator": "tcg",
        "cpu_model": "max",
        "machine": "q35",
        "cpus": 1,
        "memory": 256 << 20,
        "kernel": "6.1.0-37-amd64",
    }
    return GuestRecord(**{**given, **more})


def made_host(**more: Any) -> HostRecord:
    """Return a host that is not busy."""
    given = {
        "cpu": "Example CPU 3000",
        "cores": 4,
        "memory": 16 << 30,
        "kernel": "6.8.0-31-generic",
        "vms": [made_guest("vm1"), made_guest("vm2")],
        "load_before": (0.25, 0.5, 0.5),
        "load_after": (2.0, 1.5, 1.0),
    }
    return HostRecord(**{**given, **more})


def made_settings(*workloads: str, **more: Any) -> Settings:
    """Return what was asked for: seven repeats of these workloads."""
    return Settings(**{"workloads": list(workloads or METRICS), "repeats": 7, "duration": 10, **more})


def made_result(samples: Sequence[Sample] = (), **more: Any) -> BenchResult:
    """Return a result with these rows; its links and workloads are those of the rows, if none are given."""
    kinds = dict.fromkeys((sample.link, sample.kind) for sample in samples) or {("lan0", "stream"): None}
    given = {
        "vpctl_version": "0.1.0",
        "started": "2024-05-06T07:08:09+00:00",
        "seconds": 321.5,
        "host": made_host(),
        "topology": "pair",
        "links": [made_link(name, kind) for name, kind in kinds],
        "settings": made_settings(*dict.fromkeys(sample.workload for sample in samples)),
        "samples": list(samples),
        "raw": [],
    }
    return BenchResult(**{**given, **more})


def made_failure(workload: str = "tcp", message: str = "iperf3 ended with 1", **more: Any) -> Failure:
    """Return a failure in the third repeat."""
    given = {"link": "lan0", "kind": "stream", "workload": workload, "round": 3, "message": message}
    return Failure(**{**given, **more})


def made_skip(workload: str = "tcp", reason: str = "the link is broken", **more: Any) -> Skip:
    """Return a workload that was not run."""
    return Skip(**{"link": "lan0", "kind": "stream", "workload": workload, "reason": reason, **more})


def made_timing(workload: str = "tcp", seconds: float = 70.25, **more: Any) -> Timing:
    """Return what a workload took."""
    return Timing(**{"link": "lan0", "kind": "stream", "workload": workload, "seconds": seconds, **more})


PINGS = [700.0 + (number * 7919 % 10_007) / 40 for number in range(12_000)]
"""So many round trips, in µs, that there is a p99.9 of them."""


def whole_samples(link: str = "lan0", kind: str = "stream", *, factor: float = 1.0, **more: Any) -> list[Sample]:
    """Return a row of each sort; with a factor they are all that much better."""
    ends: tuple[str, str] = more.pop("ends", ("vm1", "vm2"))
    there: dict[str, Any] = {"link": link, "kind": kind, "ends": ends, **more}
    back = {**there, "ends": ends[::-1]}
    return [
        made_sample("ping", scaled(8.12 / factor), variant="56 B", observations=PINGS, **there),
        made_sample("tcp", scaled(12.3 * factor), **there),
        made_sample("tcp", scaled(11.1 * factor), **back),
        made_sample("tcp-bidir", scaled(6.2 * factor), **there),
        made_sample("udp", scaled(0.31 * factor), variant="64 B", **there),
        made_sample("udp", scaled(5.2 * factor), variant="1514 B", **there),
        made_sample("pktgen", scaled(456 * factor), variant="64 B", **there),
        made_sample("cpu", scaled(0.0123 / factor), **there),
    ]
