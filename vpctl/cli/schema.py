"""`vpctl schema`: the JSON Schema of a topology file, of a benchmark's result, or of a soak's report."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result


class Subject(StrEnum):
    """Files that have a schema."""

    TOPOLOGY = "topology"
    BENCH = "bench"
    SOAK = "soak"


async def schema(
    context: Context,
    of: Annotated[
        Subject,
        typer.Argument(
            metavar="[topology|bench|soak]", help="A topology file, or what `vpctl bench` or `vpctl soak` writes."
        ),
    ] = Subject.TOPOLOGY,
) -> Result:
    """Print the JSON Schema of a topology file (or of what `bench` or `soak` writes), for editors and other tools."""
    if of is Subject.BENCH:
        from vpctl.bench.results.result import result_schema

        data = result_schema()
    elif of is Subject.SOAK:
        from vpctl.client.soak.report import report_schema

        data = report_schema()
    else:
        from vpctl.client.topology_file import kind_rules
        from vpctl.topology.schema import schema as topology_schema

        data = topology_schema(kind_rules())
    return Result(data=data, text=json.dumps(data, indent=1))
