"""What `vpctl --help` costs, against an empty typer app with as many verbs: CPU seconds, interleaved, medians.

python benchmarks/help.py [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EMPTY = """
import typer
app = typer.Typer(no_args_is_help=True)
def make(name):
    def verb(file: str = "", topology: str = "", quiet: bool = False):
        "Do something with a topology; one sentence, as every verb has it."
    app.command(name)(verb)
for number in range({verbs}):
    make(f"verb{{number}}")
app()
"""


def cpu_seconds(command: list[str]) -> float:
    """Run a command; return the CPU seconds that it took, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def count_verbs() -> int:
    """Return how many verbs `vpctl --help` lists."""
    from vpctl.cli.app import VERBS

    return len(VERBS) + 1  # and the group `image`


def measure(rounds: int) -> dict[str, float]:
    """Return both medians and the median of the ratios; the first round is warm-up."""
    ours = [sys.executable, "-m", "vpctl", "--help"]
    empty = [sys.executable, "-c", EMPTY.format(verbs=count_verbs()), "--help"]
    pairs = [(cpu_seconds(ours), cpu_seconds(empty)) for _ in range(rounds + 1)][1:]
    return {
        "vpctl_help_cpu_s": round(statistics.median(mine for mine, _ in pairs), 3),
        "empty_help_cpu_s": round(statistics.median(other for _, other in pairs), 3),
        "median_of_ratios": round(statistics.median(mine / other for mine, other in pairs), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    print(json.dumps(measure(parser.parse_args().rounds), indent=1))
