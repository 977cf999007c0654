"""`vpctl schema`: the JSON Schema of a topology file, or of a benchmark's result."""

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


async def schema(
    context: Context,
    of: Annotated[
        Subject, typer.Argument(metavar="[topology|bench]", help="A topology file, or a result of `vpctl bench`.")
    ] = Subject.TOPOLOGY,
) -> Result:
    """Print the JSON Schema of a topology file (or of a benchmark's result), for editors and other tools."""
    if of is Subject.BENCH:
        from vpctl.bench.result import result_schema

        data = result_schema()
    else:
        from vpctl.supervisor.prepare import kind_rules
        from vpctl.topology.schema import schema as topology_schema

        data = topology_schema(kind_rules())
    return Result(data=data, text=json.dumps(data, indent=1))
