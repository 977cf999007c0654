"""Topologies that seem to run, and the context of a command."""

from __future__ import annotations

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.broker.service import hold
from vpctl.cli.verb import Common, Context, OutputFormat
from vpctl.log import Silent
from vpctl.plan.run import run_to_json
from vpctl.rundir import Directories, write_json


def made_running(directories: Directories, name: str, *vms: str) -> None:
    """Make a topology of these VMs run: its broker's lock is held, by this process."""
    rundir = made(directories, name)
    write_json(rundir.spec, run_to_json(made_run(made_topology(vms=vms, name=name))))
    hold(rundir)


def context(directories: Directories, topology: str | None = None) -> Context:
    common = Common(topology=topology, format=OutputFormat.TABLE, verbose=0, quiet=False, debug=False)
    return Context(common=common, log=Silent(), directories=directories, environ={})
