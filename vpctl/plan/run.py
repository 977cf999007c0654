"""A run: a topology together with everything that was decided for it, as data and as JSON.

`vpctl up` decides once and writes it down; the supervisor, its successors and `vpctl plan` all work from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vpctl.qemu.argv import MachineSpec, machine_from_json, machine_to_json
from vpctl.topology.model import Topology, topology_from_json, topology_to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a topology, from `up` to `down`."""

    topology: Topology
    machines: Mapping[str, MachineSpec]
    run_id: str
    source: str
    """Where the topology file lay when `up` read it; for people only, nothing reads it again."""
    keep: bool = False
    """Leave everything running after a failed `up`."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Limits of boot stages that the user set; seconds."""

    def machine(self, vm: str) -> MachineSpec:
        """Return what was decided for a VM (KeyError)."""
        return self.machines[vm]


def run_to_json(run: Run) -> dict[str, Any]:
    """Return plain JSON data."""
    return {
        "schema_version": 1,
        "run_id": run.run_id,
        "source": run.source,
        "keep": run.keep,
        "stage_seconds": dict(run.stage_seconds),
        "topology": topology_to_json(run.topology),
        "machines": {name: machine_to_json(spec) for name, spec in run.machines.items()},
    }


def run_from_json(data: Mapping[str, Any]) -> Run:
    """Read what `run_to_json` wrote."""
    topology = topology_from_json(data["topology"])
    machines = {vm.name: machine_from_json(vm, data["machines"][vm.name]) for vm in topology.vms}
    return Run(
        topology=topology,
        machines=machines,
        run_id=data["run_id"],
        source=data["source"],
        keep=data["keep"],
        stage_seconds=data["stage_seconds"],
    )
