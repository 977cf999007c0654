"""`vpctl crash`: inject a fault."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result


class How(StrEnum):
    """Ways to crash a VM that work."""

    KILL = "kill"


async def crash(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM to crash.")],
    how: Annotated[How, typer.Option("--how", help="kill: SIGKILL of its QEMU.")] = How.KILL,
) -> Result:
    """Crash a VM on purpose; returns when the fault was detected."""
    from vpctl.cli import choose
    from vpctl.supervisor.client import connect

    async with connect(choose.vm(context, vm)) as supervisor:
        data = await supervisor.execute("crash", vm=vm, how=str(how))
    context.log.info(f"{vm}: killed, pid {data['pid']}")
    return Result(data=data)
