"""What vpctl costs while nothing happens: CPU and memory of the broker and the supervisor of a running topology.

    python benchmarks/idle.py [--seconds N] [NAME]

Memory is PSS (shared pages counted by their share), from /proc/PID/smaps_rollup; CPU is over the given time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from vpctl.client.running import running_topologies
from vpctl.process import memory_mib
from vpctl.process_record import known_children
from vpctl.rundir import Directories


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, seconds: float) -> dict[str, object]:
    """Return CPU per cent and MiB, each and together."""
    rundir = Directories.from_environment().topology(name)
    pids = {child.name: child.process.pid for child in known_children(rundir) if child.name == "supervisor"}
    pids["broker"] = int(rundir.broker_pid.read_text())
    before = {who: cpu_seconds(pid) for who, pid in pids.items()}
    time.sleep(seconds)
    cpu = {who: (cpu_seconds(pid) - before[who]) / seconds * 100 for who, pid in pids.items()}
    memory = {who: memory_mib(pid, "Pss") for who, pid in pids.items()}
    return {
        "seconds": seconds,
        "cpu_percent": {who: round(value, 2) for who, value in cpu.items()},
        "pss_mib": {who: round(value, 1) for who, value in memory.items()},
        "together": {"cpu_percent": round(sum(cpu.values()), 2), "pss_mib": round(sum(memory.values()), 1)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="the topology; not needed if one runs")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    chosen = options.name or running_topologies(Directories.from_environment())[0]
    print(json.dumps(measure(chosen, options.seconds), indent=1))
