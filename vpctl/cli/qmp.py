"""`vpctl qmp`: one QMP command."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError


async def qmp(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="For instance query-status.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[k=v...]", help="JSON values, or plain words.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the reply.")] = 10.0,
) -> Result:
    """Send one command to a VM's second QMP socket, beside the supervisor's, and print what it returns."""
    from vpctl.cli import choose
    from vpctl.qmp.session import connect

    given = parse(arguments or [])
    async with connect(choose.vm(context, vm).people_qmp_socket(vm), vm=vm, timeout=timeout) as session:
        returned = await session.execute(command, given, timeout=timeout)
    if context.json:
        return Result(data={"schema_version": 1, "return": returned})
    return Result(text=returned.rstrip() if isinstance(returned, str) else json.dumps(returned, indent=1))


def parse(words: list[str]) -> dict[str, Any]:
    """Return QMP arguments of `k=v` words: a value that is JSON counts as such, `a.b=c` makes an object."""
    arguments: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise UsageError(f"`{word}` is no k=v", hint="for instance id=nic0, or data='{\"a\": 1}'")
        value: Any
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *path, last = key.split(".")
        place = arguments
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"`{word}`: `{part}` has a value already")
        place[last] = value
    return arguments
