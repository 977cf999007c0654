"""`vpctl events`: the journal."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.cli.view import render
from vpctl.text import printable


async def events(
    context: Context,
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on with what happens from now on.")] = False,
) -> Result:
    """Print the journal of a topology: states, faults, QMP events and commands, recoveries."""
    from vpctl import wait
    from vpctl.cli import choose
    from vpctl.client.running import is_running
    from vpctl.journal import Reader

    rundir = choose.topology(context)
    with Reader(rundir.journal) as reader:
        runs = follow
        while True:
            for entry in reader.new():
                show(entry, as_json=context.json)
            if not runs:
                break
            await wait.pause(0.2)
            runs = is_running(rundir)  # asked before the last look, so that the last entries are seen
    return Result()


def show(entry: dict[str, Any], *, as_json: bool) -> None:
    """Print one entry: a JSON line, or a line for people."""
    render.line(json.dumps(entry) if as_json else printable(line(entry)))


def line(entry: dict[str, Any]) -> str:
    """Return an entry as people read it."""
    moment = time.strftime("%H:%M:%S", time.localtime(entry["time"])) + f".{int(entry['time'] % 1 * 1000):03d}"
    who = entry.get("vm") or entry.get("link") or "-"
    return f"{moment} {entry['seq']:>4} {entry['type']:<14} {who:<7} {summary(entry['type'], entry['attributes'])}"


def summary(type_: str, attributes: dict[str, Any]) -> str:
    """Return the attributes of an entry in short."""
    if type_ == "qmp.command":
        outcome = attributes["outcome"]
        said = "ok" if "return" in outcome else json.dumps(outcome)
        arguments = attributes["arguments"]
        target = arguments.get("id") or arguments.get("name") or arguments.get("command-line") or ""
        if "up" in arguments:  # of a link
            target += " on" if arguments["up"] else " off"
        return f"{attributes['command']} {target} → {said} ({short(attributes['ms'])} ms)".replace("  ", " ")
    if type_ == "qmp.event":
        data = json.dumps(attributes["data"]) if attributes["data"] else ""
        return f"{attributes['event']} {data}".rstrip()
    if type_ == "fault" and "reason" in attributes:
        return f"{attributes['fault']}: {attributes['reason']}"
    if type_ == "recovery.step" and "at_ms" in attributes:
        verdict = "ok" if attributes.get("ok") else "failed"
        return f"{attributes['name']} {attributes['target']} → {verdict} ({short(attributes['ms'])} ms)"
    if type_ == "recovery.end" and "total_ms" in attributes:
        verdict = "ok" if attributes.get("ok") else "failed"
        return f"{attributes['fault']}: {verdict}, {attributes['total_ms']:.0f} ms"
    return " ".join(f"{key}={value}" for key, value in attributes.items() if value is not None and key != "traceback")


def short(ms: float) -> str:
    """Return milliseconds with no more digits than say something."""
    return f"{ms:.1f}" if ms < 10 else f"{ms:.0f}"
