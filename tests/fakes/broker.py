"""The real broker with a stand-in for its supervisor: in this process, or as one that can be killed.

As a process: `python -m tests.fakes.broker NAME ARGV…`, where ARGV is the supervisor's.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from vpctl.broker.client import BrokerClient, connect
from vpctl.broker.service import Broker, hold, listen
from vpctl.rundir import Directories, RunDir, make_root

SLEEPS = ("sleep", "1000")
"""A supervisor that does nothing, or a VM."""


def made(directories: Directories, name: str = "pair") -> RunDir:
    """Return a topology's directories, created as `up` creates them."""
    rundir = directories.topology(name)
    for path in (directories.run, directories.state):
        make_root(path)
    rundir.claim()
    return rundir


@asynccontextmanager
async def broker_running(rundir: RunDir, *, supervisor: Sequence[str] = SLEEPS) -> AsyncIterator[BrokerClient]:
    """Serve in this process for as long as the block lasts, then end everything; yields a connection."""
    lock = hold(rundir)
    task = asyncio.create_task(Broker(rundir, listen(rundir), supervisor_argv=supervisor).run(), name="broker")
    try:
        async with connect(rundir) as client:
            yield client
            if not client.lost.is_set():
                await client.stop()
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        os.close(lock)


@contextmanager
def broker_process(
    rundir: RunDir, *, supervisor: Sequence[str] = SLEEPS, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a broker that may be killed; one that still lives at the end is told to stop.

    `environ` names the directories, where `os.environ` does not.
    """
    argv = [sys.executable, "-m", "tests.fakes.broker", rundir.name, *supervisor]
    env = {**os.environ, **(environ or {})}
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=root, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        try:
            yield process
        finally:
            process.terminate()


def main(name: str, supervisor: Sequence[str]) -> None:
    rundir = Directories.from_environment().topology(name)
    hold(rundir)
    listener = listen(rundir)
    print("listens", flush=True)
    asyncio.run(Broker(rundir, listener, supervisor_argv=supervisor).run())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
