"""`python -m vpctl.supervisor NAME RUN STATE`: supervise a topology; the broker starts it, and again when it dies.

`python -m vpctl.supervisor --warm`: import everything, then wait for the same three words on stdin, as a JSON array.
The first `up` starts it so while it makes its own preparations, on another CPU; the broker then finds it in its list.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vpctl.broker.protocol import EXIT_NO_TOPOLOGY, WARM
from vpctl.errors import HostError
from vpctl.guest.ssh import load
from vpctl.plan.run import run_from_json
from vpctl.process_record import SUPERVISOR
from vpctl.rundir import RunDir, read_json
from vpctl.supervisor.control import ControlServer
from vpctl.supervisor.service import Supervisor
from vpctl.tasks import described, traceback_of

EXIT_TERMINATED = 143
"""After SIGTERM: not 0, which would tell the broker that the topology is over."""


async def supervise(rundir: RunDir) -> int:
    """Run until SIGTERM; return the exit code."""
    spec = read_json(rundir.spec)
    if not isinstance(spec, dict):
        wrong = f"{rundir.spec} is missing or damaged: the guests of `{rundir.name}` run on, unwatched"
        print(f"error: {wrong}; `vpctl down {rundir.name}` ends them", file=sys.stderr)
        return EXIT_NO_TOPOLOGY
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


def told_topology() -> RunDir | None:
    """Wait to be told of a topology; then write to its log from now on. None: there is nothing to do."""
    load()
    line = sys.stdin.readline().strip()
    if not line:
        return None
    rundir = RunDir.from_words(json.loads(line))
    log = os.open(rundir.service_log(SUPERVISOR), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir("/")
    return rundir


def main(arguments: Sequence[str]) -> int:
    """Return the exit code."""
    rundir = told_topology() if list(arguments) == [WARM] else RunDir.from_words(arguments)
    return asyncio.run(supervise(rundir)) if rundir is not None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
