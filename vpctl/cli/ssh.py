"""`vpctl ssh`: an interactive shell in a guest, by the system's own ssh."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from vpctl.guest.ssh import Address
    from vpctl.rundir import RunDir


async def ssh(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
) -> Result:
    """Open a shell in a guest; needs an ssh client on the host (`vpctl exec` does not)."""
    from vpctl.cli import choose
    from vpctl.cli.guest import address

    target = address(context, vm)
    rundir = choose.vm(context, vm)
    argv = ssh_argv(target, rundir)
    os.chdir(rundir.run)
    # exec, so that the terminal, its signals and the exit code are ssh's own affair.
    os.execv(argv[0], argv)


def ssh_argv(target: Address, rundir: RunDir) -> list[str]:
    """Return ssh's command line, to be run in the run directory.

    What lies there is named without its directory: ssh ends a path at a blank, and expands `%` and `${…}` in it.
    """
    from vpctl.process import find_tool

    identity = target.identity
    own = identity.parent == rundir.run
    # An own image's key is its own, and was pinned at the first login.
    pinned = rundir.known_hosts_of(target.vm)
    known = pinned if pinned.exists() else rundir.known_hosts
    options = {
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "GlobalKnownHostsFile": "none",
        "UserKnownHostsFile": known.name if target.host_key else "/dev/null",
        "StrictHostKeyChecking": "yes" if target.host_key else "no",
        "LogLevel": "ERROR",
    }
    argv = [find_tool("ssh", package="openssh-client"), "-F", "none", "-p", str(target.port)]
    escaped = str(identity).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    argv += ["-i", identity.name] if own else ["-o", f'IdentityFile="{escaped}"']
    for key, value in options.items():
        argv += ["-o", f"{key}={value}"]
    return [*argv, f"{target.user}@127.0.0.1"]
