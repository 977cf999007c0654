"""`vpctl validate`: check topology files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result


async def validate(
    context: Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Topology files.")],
) -> Result:
    """Check topology files: every problem of each, with line and column; exit code 2 if there is one."""
    from vpctl.cli.view import render
    from vpctl.client.topology_file import load_file
    from vpctl.errors import TopologyError, UsageError

    results: list[dict[str, Any]] = []
    lines: list[str] = []
    for file in files:
        try:
            topology = load_file(file, context.environ)
        except TopologyError as error:
            results.append({"file": str(file), "ok": False, "problems": error.as_json()["problems"]})
            lines += render.error_lines(error)
        except UsageError as error:
            results.append(
                {"file": str(file), "ok": False, "problems": [{"message": error.message, "hint": error.hint}]}
            )
            lines += render.error_lines(error)
        else:
            results.append({"file": str(file), "ok": True, "problems": []})
            lines.append(f"{file}: ok ({len(topology.vms)} VMs, {len(topology.links)} links)")
    ok = all(entry["ok"] for entry in results)
    data = {"schema_version": 1, "ok": ok, "files": results}
    return Result(data=data, text="\n".join(lines), exit_code=0 if ok else 2)
