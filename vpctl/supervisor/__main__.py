"""`python -m vpctl.supervisor NAME`: supervise a topology; the broker starts it, and again whenever it dies."""

from __future__ import annotations

import asyncio
import sys

from vpctl.plan.run import run_from_json
from vpctl.rundir import Directories, read_json
from vpctl.supervisor.service import Supervisor

EXIT_TERMINATED = 143
"""After SIGTERM: not 0, which would tell the broker that the topology is over."""


async def supervise(name: str) -> int:
    """Run until SIGTERM; return the exit code."""
    rundir = Directories.from_environment().topology(name)
    spec = read_json(rundir.spec)
    if not isinstance(spec, dict):
        print(f"error: {rundir.spec} is missing or damaged", file=sys.stderr)
        return 0
    try:
        await Supervisor(run_from_json(spec), rundir).run()
    except asyncio.CancelledError:
        return EXIT_TERMINATED
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(supervise(sys.argv[1])))
