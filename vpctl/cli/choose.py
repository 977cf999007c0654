"""Which running topology and which VM a command means."""

from __future__ import annotations

from typing import Any

from vpctl.cli.verb import Context
from vpctl.errors import NotFoundError, UsageError
from vpctl.rundir import RunDir, read_json
from vpctl.supervisor.lifetime import require_running, running_topologies


def vms_of(rundir: RunDir) -> list[str]:
    """Return the names of a topology's VMs, from what `up` wrote down."""
    spec: Any = read_json(rundir.spec)
    return [vm["name"] for vm in spec["topology"]["vms"]] if isinstance(spec, dict) else []


def topology(context: Context, name: str | None = None) -> RunDir:
    """Return the running topology that is meant; NotFoundError if none runs, UsageError if it is not clear."""
    wanted = name or context.common.topology
    if wanted is not None:
        return require_running(context.directories, wanted)
    running = running_topologies(context.directories)
    if not running:
        raise NotFoundError("no topology runs", hint="vpctl up FILE")
    if len(running) > 1:
        names = ", ".join(f"`{other}`" for other in running)
        raise UsageError(f"{len(running)} topologies run", hint=f"choose one with `-t NAME`: {names}")
    return context.directories.topology(running[0])


def vm(context: Context, name: str) -> RunDir:
    """Return the running topology that has a VM of this name; `-t` is needed only where several have one."""
    if context.common.topology is not None:
        candidates = [context.common.topology]
        require_running(context.directories, candidates[0])
    else:
        candidates = running_topologies(context.directories)
    if not candidates:
        raise NotFoundError("no topology runs", hint="vpctl up FILE")
    having = [c for c in candidates if name in vms_of(context.directories.topology(c))]
    if not having:
        known = ", ".join(f"`{v}`" for c in candidates for v in vms_of(context.directories.topology(c)))
        raise NotFoundError(f"no VM named `{name}`", hint=f"VMs are {known}")
    if len(having) > 1:
        raise UsageError(f"{len(having)} topologies have a VM named `{name}`", hint=f"-t {having[0]}, for instance")
    return context.directories.topology(having[0])
