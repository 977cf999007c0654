"""What is decided before anything is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.qemu import fake_qemu
from tests.made import made_topology
from vpctl.client.prepare import open_files, plan
from vpctl.errors import HostError
from vpctl.rundir import Directories
from vpctl.topology.model import Topology, VmSpec

LINKED = made_topology(("lan0", "vm1", "vm2"))


async def test_a_plan_needs_no_image_that_is_built(directories: Directories, tmp_path: Path) -> None:
    roots = Directories(run=directories.run, state=directories.state, cache=tmp_path / "cache")
    qemu = fake_qemu(tmp_path / "qemu")[0]
    run = await plan(made_topology(vms=["vm1"]), source="/t", directories=roots, environ={"VPCTL_QEMU": qemu})
    boot = run.machines["vm1"].boot
    assert not roots.images.exists()
    assert (boot.disk_format, boot.disk_overlay) == ("raw", False)
    assert boot.disk is not None
    assert boot.disk.startswith(f"{roots.images}/micro-")


async def test_a_plan_that_does_not_probe_runs_nothing_that_the_file_names(
    directories: Directories, tmp_path: Path
) -> None:
    roots = Directories(run=directories.run, state=directories.state, cache=tmp_path / "cache")
    ran = tmp_path / "ran"
    topology = Topology(name="t", vms=(VmSpec(name="vm1", qemu=f"sh -c 'touch {ran}; echo QEMU'"),), links=())
    run = await plan(topology, source="/t", directories=roots, environ={}, probing=False)
    assert not ran.exists()
    assert run.machines["vm1"].qemu[1:] == ("-c", f"touch {ran}; echo QEMU")
    assert "was not asked, and is taken for 7.2.0" in run.machines["vm1"].accelerator_reason
    with pytest.raises(HostError):
        await plan(topology, source="/t", directories=roots, environ={})
    assert ran.exists()


async def test_a_plan_that_does_not_probe_knows_what_was_answered_before(
    directories: Directories, tmp_path: Path
) -> None:
    roots = Directories(run=directories.run, state=directories.state, cache=tmp_path / "cache")
    environ = {"VPCTL_QEMU": fake_qemu(tmp_path / "qemu")[0]}
    asked = await plan(LINKED, source="/t", directories=roots, environ=environ)
    assert await plan(LINKED, source="/t", directories=roots, environ=environ, probing=False) == asked


@pytest.mark.parametrize(
    ("kind", "qemu", "broker"),
    [
        # Seen with QEMU 7.2, 24 links between two VMs up: one more than the highest number of the end that had more,
        # and how many the broker had.
        ("stream", 207, 16),
        ("dgram", 182, 16),
        ("ivshmem-doorbell", 322, 450),
        ("vhost-pci", 305, 450),
    ],
)
def test_no_more_open_files_are_asked_for_than_a_kind_uses(kind: str, qemu: int, broker: int) -> None:
    links = [(f"l{number}", "vm1", "vm2") for number in range(24)]
    files = open_files(made_topology(*links, kind=kind))
    assert set(files) == {"the broker", "the QEMU of `vm1`", "the QEMU of `vm2`"}
    assert broker <= files["the broker"] <= broker + 10
    assert qemu <= files["the QEMU of `vm1`"] == files["the QEMU of `vm2`"] <= qemu + 25


@pytest.mark.parametrize(("kind", "qemu", "broker"), [("ivshmem-doorbell", 185, 114), ("vhost-pci", 230, 118)])
def test_queues_have_files_too(kind: str, qemu: int, broker: int) -> None:
    """Seen likewise, with one link of 1 and one of 16 queue pairs."""
    pair = made_topology(("l0", "vm1", "vm2"), ("l1", "vm1", "vm2"), kind=kind)
    files = open_files(replace(pair, links=(pair.links[0], replace(pair.links[1], queues=16))))
    assert broker <= files["the broker"] <= broker + 20
    assert qemu <= files["the QEMU of `vm1`"] <= qemu + 35
