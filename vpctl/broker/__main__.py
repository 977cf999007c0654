"""`python -m vpctl.broker NAME RUN STATE`: become the broker of a topology; returns when its socket listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from vpctl.broker.service import Broker, hold, listen
from vpctl.errors import HostError, UsageError, VpctlError
from vpctl.rundir import RunDir, write_atomic


def become_daemon(rundir: RunDir) -> bool:
    """Fork; True in the child, which has its own session and writes to its log only."""
    if os.fork() > 0:
        return False
    os.setsid()
    log = os.open(rundir.service_log("broker"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir("/")
    return True


def main(arguments: list[str]) -> int:
    """Return the exit code; 0 in the parent means that the broker listens."""
    rundir = RunDir.from_words(arguments)
    try:
        if rundir.stopping.exists():
            raise UsageError(f"`{rundir.name}` is being stopped")
        # flock belongs to the open file, so the lock and the listening socket pass to the child with the fork.
        hold(rundir)
        listener = listen(rundir)
    except VpctlError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    if become_daemon(rundir):
        with contextlib.suppress(HostError):  # a full disk: only the end of a broker that hangs needs it
            write_atomic(rundir.broker_pid, f"{os.getpid()}\n")
        asyncio.run(Broker(rundir, listener).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
