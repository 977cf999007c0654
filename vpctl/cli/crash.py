"""`vpctl crash`: inject a fault."""

from __future__ import annotations

from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.recovery.faults import How

HOW_HELP = (
    "kill: SIGKILL of its QEMU. panic: of the guest's kernel. hang: no thread of the guest runs any more. "
    "stop: SIGSTOP of its QEMU."
)


async def crash(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM to crash.")],
    how: Annotated[How, typer.Option("--how", help=HOW_HELP)] = How.KILL,
) -> Result:
    """Crash a VM on purpose; returns when the fault was detected."""
    from vpctl.cli import choose
    from vpctl.client.connection import connect

    async with connect(choose.vm(context, vm)) as supervisor:
        data = await supervisor.job("crash", vm=vm, how=str(how))
    if data["joined"]:
        context.log.info(f"joined the crash of {vm} that was under way")
    seen = f": {data['fault']}, detected after {data['detect_ms']:.0f} ms" if "fault" in data else ""
    context.log.info(f"{vm}: {how}, pid {data['pid']}{seen}")
    return Result(data=data)
