"""`python -m vpctl.supervisor NAME`: supervise a topology; the broker starts it, and again whenever it dies.

`python -m vpctl.supervisor --warm`: import everything, then wait for the name on stdin. The first `up` starts it so
while it makes its own preparations, on another CPU; the broker then finds it in its list.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from vpctl.broker.protocol import SUPERVISOR, WARM
from vpctl.errors import HostError
from vpctl.guest.ssh import load
from vpctl.plan.run import run_from_json
from vpctl.rundir import Directories, RunDir, read_json
from vpctl.supervisor.control import ControlServer
from vpctl.supervisor.service import Supervisor
from vpctl.tasks import described, traceback_of

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
        try:
            run = run_from_json(spec)
        except Exception as error:
            await stand_by(rundir, error)
            return 0
        await Supervisor(run, rundir).run()
    except asyncio.CancelledError:
        return EXIT_TERMINATED
    return 0


async def stand_by(rundir: RunDir, error: Exception) -> None:
    """Supervise nothing, and say why to each command, until SIGTERM or the end of the topology.

    For a topology that another version has started. To exit would end its guests, or have the broker start us again.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    hint = f"`vpctl down {rundir.name}` ends it, or run the version that started it; its guests run on, unwatched"
    message = f"{rundir.spec} is damaged or another version's: {described(error)}"
    print(f"error: {message}; {hint}\n{traceback_of(error)}", file=sys.stderr, flush=True)

    async def refuse(command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise HostError(message, hint=hint)

    await ControlServer(rundir.control_socket).run(refuse)


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
