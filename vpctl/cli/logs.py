"""`vpctl logs`: what a VM's guest and QEMU said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import NotFoundError, UsageError


async def logs(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
    generation: Annotated[
        int | None, typer.Option("--generation", "-g", help="Which life; if not given, the latest.")
    ] = None,
) -> Result:
    """Show the serial console, QEMU's own output and the command line of a VM; of a failed `up`, too."""
    from vpctl.supervisor.logs import read_whole

    lives = generations(context, vm)
    chosen = generation if generation is not None else max(lives)
    if chosen not in lives:
        known = ", ".join(str(number) for number in sorted(lives))
        raise NotFoundError(f"VM `{vm}` has no generation {chosen}", hint=f"there are {known}")
    directory = lives[chosen]
    parts = {}
    for name in ("argv", "qemu.log", "serial.log", "exit.json"):
        path = directory / name
        parts[name] = read_whole(path)
    data = {"schema_version": 1, "vm": vm, "generation": chosen, "directory": str(directory)}
    text = "\n".join(f"==> {directory / name} <==\n{content}" for name, content in parts.items() if content)
    return Result(data={**data, "generations": sorted(lives), "files": parts}, text=text)


def generations(context: Context, vm: str) -> dict[int, Path]:
    """Return the log directory of each life of a VM, whether or not its topology still runs."""
    state = context.directories.state
    wanted = context.common.topology
    names = [wanted] if wanted is not None else sorted(e.name for e in state.iterdir()) if state.is_dir() else []
    having = [name for name in names if (state / name / "vms" / vm).is_dir()]
    if not having:
        raise NotFoundError(f"no logs of a VM named `{vm}`", hint="vpctl list")
    if len(having) > 1:
        raise UsageError(f"{len(having)} topologies have a VM named `{vm}`", hint=f"-t {having[0]}, for instance")
    lives = (state / having[0] / "vms" / vm).iterdir()
    return {int(life.name): life for life in lives if life.name.isdecimal()}
