"""`vpctl soak`: random faults under traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from rich.console import RenderableType


async def soak(
    context: Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The running topology; not needed if one runs.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many faults, one after the other.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same faults.")] = 1,
    first: Annotated[
        int, typer.Option("--first", min=1, help="The round to begin with: one that failed, to have it again.")
    ] = 1,
) -> Result:
    """Inject random faults under traffic; each has to be recovered and verified, and nothing may leak.

    Faults are those of `vpctl crash`, devices removed by hand, and vpctl's own supervisor and broker killed.
    """
    from vpctl.cli import choose
    from vpctl.client.soak.run import Soak
    from vpctl.errors import NotFoundError
    from vpctl.plan.run import run_from_json
    from vpctl.rundir import read_json

    rundir = choose.topology(context, name)
    spec = read_json(rundir.spec)
    if not isinstance(spec, dict):
        raise NotFoundError(f"`{rundir.name}` has no record of what it runs", hint=f"vpctl down {rundir.name}")
    work = Soak(run_from_json(spec), rundir, context.log.info)
    try:
        soaked = await work.run(seed=seed, first=first, rounds=rounds)
    finally:
        await work.stop_traffic()
    data = soaked.as_json()
    return Result(data=data, table=soak_table(data), errors=complaints(data), exit_code=0 if soaked.ok else 6)


def complaints(data: Mapping[str, Any]) -> list[Any]:
    """Return what went wrong as errors, with how to have it again."""
    from vpctl.errors import RecoveryError

    bad = next((entry["round"] for entry in data["rounds"] if not entry["ok"]), None)
    hint = f"vpctl soak --seed {data['seed']} --first {bad} --rounds 1" if bad is not None else None
    wrong = [*data["unrecovered"], *data["false_alarms"], *data["leaks"]]
    return [RecoveryError(text, hint=hint) for text in wrong]


def soak_table(data: Mapping[str, Any]) -> RenderableType:
    """Return the rounds, and the sums."""
    from rich.console import Group

    from vpctl.cli.view.render import table

    rows = [
        (
            str(entry["round"]),
            ", ".join(entry["strikes"]),
            "ok" if entry["ok"] else "failed",
            f"{entry['seconds']:.1f}",
            ", ".join(f"{ms:.0f}" for ms in entry["outages_ms"]) or "-",
        )
        for entry in data["rounds"]
    ]
    outage = ", ".join(f"{key} {ms:.0f} ms" for key, ms in data["outage_ms"].items() if ms is not None) or "none"
    sums = (
        f"seed {data['seed']}: {data['recoveries']} recoveries, {len(data['unrecovered'])} unrecovered, "
        f"{len(data['false_alarms'])} false alarms, {len(data['leaks'])} leaks; outage {outage}"
    )
    return Group(table(("round", "faults", "result", "s", "outages ms"), rows), "", sums)
