"""`vpctl check`: end-to-end transmission with contents compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from rich.console import RenderableType


async def check(
    context: Context,
    link: Annotated[
        list[str] | None, typer.Option("--link", metavar="LINK", help="Only this link; repeatable.")
    ] = None,
) -> Result:
    """Send raw frames, UDP and TCP over links, both ways, and compare what arrives; exit code 1 if it differs."""
    from vpctl.cli import choose
    from vpctl.client.connection import connect

    rundir = choose.topology(context)
    with context.log.step(f"checking {', '.join(link) if link else 'every link'}"):
        async with connect(rundir) as supervisor:
            data = await supervisor.job("check", links=link)
    if data["joined"]:
        context.log.info("joined the check that was under way")
    return Result(data=data, table=check_table(data), exit_code=0 if data["ok"] else 1)


def check_table(data: Mapping[str, Any]) -> RenderableType:
    """Return one row per link, direction and protocol; failed sizes are named, and what could not be checked."""
    from vpctl.cli.view.render import table

    rows = []
    for link in data["links"]:
        if "reason" in link:  # of the link as a whole: nothing of it is known
            rows.append((link["link"], *[""] * 7, "failed", link["reason"]))
        if "not_checked" in link:
            rows.append((link["link"], *[""] * 7, "not checked", link["not_checked"]))
        groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for test in link["tests"]:
            groups.setdefault((test["from"], test["to"], test["protocol"]), []).append(test)
        for (source, target, protocol), tests in groups.items():
            sizes = sorted(test["size"] for test in tests)
            span = f"{sizes[0]}..{sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
            counts = [str(sum(test[key] for test in tests)) for key in ("sent", "received", "corrupt")]
            bad = [test for test in tests if not test["ok"]]
            remark = "; ".join(f"{test['size']} B: {test.get('reason') or 'lost or corrupt'}" for test in bad[:3])
            rows.append((link["link"], source, target, protocol, span, *counts, "failed" if bad else "ok", remark))
    return table(("link", "from", "to", "protocol", "bytes", "sent", "received", "corrupt", "result", ""), rows)
