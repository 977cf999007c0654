"""`vpctl ssh`: an interactive shell in a guest, by the system's own ssh."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result


async def ssh(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
) -> Result:
    """Open a shell in a guest; needs an ssh client on the host (`vpctl exec` does not)."""
    from vpctl.cli import choose
    from vpctl.cli.guest import address
    from vpctl.process import find_tool

    target = address(context, vm)
    rundir = choose.vm(context, vm)
    argv = [
        find_tool("ssh", package="openssh-client"),
        "-F",
        "none",
        "-p",
        str(target.port),
        "-i",
        str(target.identity),
    ]
    options = {
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "GlobalKnownHostsFile": "none",
        "UserKnownHostsFile": str(rundir.known_hosts) if target.host_key else "/dev/null",
        "StrictHostKeyChecking": "yes" if target.host_key else "no",
        "LogLevel": "ERROR",
    }
    for key, value in options.items():
        argv += ["-o", f"{key}={value}"]
    # exec, so that the terminal, its signals and the exit code are ssh's own affair.
    os.execv(argv[0], [*argv, f"{target.user}@127.0.0.1"])
