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
    raw: Annotated[
        bool, typer.Option("--raw", help="As they were written, with whatever a terminal acts upon.")
    ] = False,
) -> Result:
    """Show the serial console, QEMU's own output and the command line of a VM; of a failed `up`, too."""
    from vpctl.log_files import read_whole

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
    return Result(data={**data, "generations": sorted(lives), "files": parts}, text=text, raw=raw)


def generations(context: Context, vm: str) -> dict[int, Path]:
    """Return the log directory of each life of a VM, whether or not its topology still runs."""
    from vpctl.cli import choose

    wanted = context.common.topology
    names = [choose.named(context, wanted)] if wanted is not None else context.directories.topologies()
    lives = {name: found for name in names if (found := context.directories.topology(name).generations(vm))}
    if not lives:
        raise NotFoundError(f"no logs of a VM named `{vm}`", hint="vpctl list")
    if len(lives) > 1:
        raise UsageError(
            f"{len(lives)} topologies have a VM named `{vm}`", hint=f"-t {next(iter(lives))}, for instance"
        )
    (found,) = lives.values()
    return found
