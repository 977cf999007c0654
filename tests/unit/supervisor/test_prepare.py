"""What is decided before anything is started."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.qemu import fake_qemu
from tests.made import made_topology
from vpctl.rundir import Directories
from vpctl.supervisor.prepare import plan


async def test_a_plan_needs_no_image_that_is_built(directories: Directories, tmp_path: Path) -> None:
    roots = Directories(run=directories.run, state=directories.state, cache=tmp_path / "cache")
    qemu = fake_qemu(tmp_path / "qemu")[0]
    run = await plan(made_topology(vms=["vm1"]), source="/t", directories=roots, environ={"VPCTL_QEMU": qemu})
    boot = run.machines["vm1"].boot
    assert not roots.images.exists()
    assert (boot.disk_format, boot.disk_overlay) == ("raw", False)
    assert boot.disk is not None
    assert boot.disk.startswith(f"{roots.images}/micro-")
