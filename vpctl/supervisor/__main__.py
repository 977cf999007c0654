"""`python -m vpctl.supervisor NAME`: supervise a topology; the broker starts it, and again whenever it dies.

`python -m vpctl.supervisor --warm`: import everything, then wait for the name on stdin. The first `up` starts it so
while it makes its own preparations, on another CPU; the broker then finds it in its list.
"""

from __future__ import annotations

import asyncio
import os
import sys

from vpctl.broker.protocol import SUPERVISOR, WARM
from vpctl.guest.ssh import load
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


def told_name() -> str | None:
    """Wait to be told a topology's name; then write to its log from now on. None: there is nothing to do."""
    load()
    name = sys.stdin.readline().strip()
    if not name:
        return None
    path = Directories.from_environment().topology(name).service_log(SUPERVISOR)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir("/")
    return name


def main(argument: str) -> int:
    """Return the exit code."""
    name = told_name() if argument == WARM else argument
    return asyncio.run(supervise(name)) if name is not None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
