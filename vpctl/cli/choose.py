"""Which running topology and which VM a command means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpctl.cli.verb import Context
from vpctl.client.running import require_running, running_topologies
from vpctl.errors import NotFoundError, UsageError
from vpctl.rundir import RunDir, check_name, is_name, read_json


def vms_of(rundir: RunDir) -> list[str]:
    """Return the names of a topology's VMs, from what `up` wrote down."""
    spec: Any = read_json(rundir.spec)
    return [vm["name"] for vm in spec["topology"]["vms"]] if isinstance(spec, dict) else []


def named(context: Context, text: str) -> str:
    """Return the name of the topology that a user means by its name, or by the file that it was started from.

    Raises UsageError if `text` is neither, or if it is a file that cannot be read and that nothing was started from.
    """
    if is_name(text):
        return text
    if "/" not in text.strip("./") and Path(text).suffix not in (".yaml", ".yml"):
        check_name(text, "topology")
    from vpctl.client.topology_file import load_file

    started = started_from(context, Path(text))
    try:
        name = load_file(Path(text), context.environ).name
    except UsageError:
        if len(started) != 1:
            raise
        return started[0]  # the file has gone, or has been spoilt meanwhile
    if name in started or not started:
        return name
    if len(started) == 1:
        return started[0]
    listed = ", ".join(f"`{other}`" for other in started)
    raise UsageError(f"{len(started)} topologies were started from {text}", hint=f"name one of {listed}")


def started_from(context: Context, file: Path) -> list[str]:
    """Return the topologies, running or left over, that `up` was given this file for."""
    directories, wanted = context.directories, str(file.absolute())
    specs: dict[str, Any] = {name: read_json(directories.topology(name).spec) for name in directories.topologies()}
    return [name for name, spec in specs.items() if isinstance(spec, dict) and spec.get("source") == wanted]


def topology(context: Context, name: str | None = None) -> RunDir:
    """Return the running topology that is meant; NotFoundError if none runs, UsageError if it is not clear."""
    wanted = name if name is not None else context.common.topology
    if wanted is not None:
        return require_running(context.directories, named(context, wanted))
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
        candidates = [named(context, context.common.topology)]
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
