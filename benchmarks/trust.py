"""Whether the benchmark can be trusted: it calls nothing different that is the same, and finds what is slower.

    python benchmarks/trust.py [--rounds N] [--repeats N] [--workloads A,B] [aa] [ab]

Two links of one kind join two guests. A/A: both are measured as they are, N times, each time judged; every row that
is called better or worse is a false alarm. A/B: the second link is slowed down inside a guest, by `tc netem` (1 ms
more each way) and by `tc tbf` (a tenth of the throughput), and has to be found worse.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vpctl.bench.results.compare import rows_of_kinds
from vpctl.bench.results.result import BenchResult, Comparison, read_result

TOPOLOGY = """
version: 1
name: trust
vms: {vm1: {}, vm2: {}}
links:
  a: {kind: stream, endpoints: [vm1, vm2]}
  b: {kind: stream, endpoints: [vm1, vm2]}
"""

SLOWER = {
    "netem": ("ping", "modprobe sch_netem; tc qdisc add dev b root netem delay 1ms"),
    "tbf": ("tcp", "modprobe sch_tbf; tc qdisc add dev b root tbf rate {rate}mbit burst 64kb latency 50ms"),
}
"""What slows link b down, and which workload has to show it."""


def vpctl(*words: str, check: bool = True) -> str:
    """Run vpctl and return its stdout."""
    done = subprocess.run([sys.executable, "-m", "vpctl", *words], check=False, stdout=subprocess.PIPE, text=True)
    if check and done.returncode != 0:
        sys.exit(f"vpctl {' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def measured(path: Path, *words: str) -> BenchResult:
    """Measure both links once, all repeats."""
    vpctl("bench", "-q", "-t", "trust", "--quick", "-o", str(path), *words)
    return read_result(path)


def show(row: Comparison) -> str:
    """Return a verdict in a line."""
    variant = f" {row.variant}" if row.variant else ""
    p = "" if row.p_adjusted is None else f" p {row.p_adjusted:.4f}"
    ratio = "" if row.ratio is None else f" {row.ratio:.2f}"
    return f"{row.workload}{variant} {row.source}>{row.target}:{ratio}{p} {row.verdict}"


def a_a(directory: Path, rounds: int, words: list[str]) -> int:
    """Compare link b with its like; return how many rows were called different."""
    alarms = judged = 0
    for number in range(1, rounds + 1):
        rows = rows_of_kinds(measured(directory / f"aa-{number}.json", *words), baseline="a")
        different = [row for row in rows if row.verdict in ("better", "worse")]
        alarms, judged = alarms + len(different), judged + len(rows)
        verdicts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("same", "unclear")}
        print(
            f"A/A {number}: {len(rows)} rows, {verdicts}, different: {[show(row) for row in different]}", flush=True
        )
    print(f"A/A: {alarms} of {judged} rows called different in {rounds} comparisons")
    return alarms


def a_b(directory: Path, repeats: int) -> int:
    """Slow link b down in known ways; return how many of them were not found."""
    missed = 0
    plain = measured(directory / "plain.json", "-w", "tcp", "--repeats", "3", "--link", "b")
    for name, (workload, script) in SLOWER.items():
        script = script.format(rate=max(1, round(plain.samples[0].median / 10)))
        vpctl("exec", "-t", "trust", "vm1", "--", script)
        path = directory / f"ab-{name}.json"
        rows = rows_of_kinds(measured(path, "-w", workload, "--repeats", str(repeats)), baseline="a")
        vpctl("exec", "-t", "trust", "vm1", "--", "tc qdisc del dev b root")
        # tbf limits what the guest sends, so only that direction is slower.
        slowed = [row for row in rows if row.source == "vm1"]
        found = all(row.verdict == "worse" for row in slowed)
        missed += not found
        print(f"A/B {name}: {'found' if found else 'MISSED'}: {[show(row) for row in rows]}", flush=True)
    return missed


def main() -> None:
    """Run what is asked for; exit code 1 if A/A calls more than one row different, or A/B misses a slow-down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["aa", "ab"], help="aa, ab; default both")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workloads", default="ping,tcp,cpu,tcp-bidir,udp,pktgen")
    parser.add_argument("--keep", type=Path, help="a directory for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        file = Path(scratch) / "trust.yaml"
        file.write_text(TOPOLOGY)
        vpctl("up", "-q", str(file))
        try:
            words = ["--repeats", str(options.repeats), "-w", options.workloads]
            alarms = a_a(directory, options.rounds, words) if "aa" in options.what else 0
            missed = a_b(directory, options.repeats) if "ab" in options.what else 0
        finally:
            vpctl("down", "-q", "trust")
    print(json.dumps({"alarms": alarms, "missed": missed}))
    sys.exit(1 if alarms > 1 or missed else 0)


if __name__ == "__main__":
    main()
