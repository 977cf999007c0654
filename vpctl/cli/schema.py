"""`vpctl schema`: the JSON Schema of a topology file."""

from __future__ import annotations

import json

from vpctl.cli.verb import Context, Result


async def schema(context: Context) -> Result:
    """Print the JSON Schema of a topology file, for editors and other tools."""
    from vpctl.supervisor.prepare import kind_rules
    from vpctl.topology.schema import schema as topology_schema

    data = topology_schema(kind_rules())
    return Result(data=data, text=json.dumps(data, indent=1))
