"""Links of kinds with memory, as the loader makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.made import made_link
from vpctl.rundir import RunDir
from vpctl.topology.model import LinkSpec

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))


def link_of(**more: Any) -> LinkSpec:
    return made_link("shm0", "vm1", "vm2", kind="ivshmem-doorbell", **more)
