"""The doctor names each unfitness of a host with a remedy, and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.qemu import DEVICES, fake_qemu
from vpctl.host import doctor
from vpctl.host.doctor import Needs, examine
from vpctl.log import Silent
from vpctl.qemu.host import Finding
from vpctl.rundir import Directories
from vpctl.topology.model import Topology, VmSpec


def topology(*vms: VmSpec) -> Topology:
    return Topology(name="pair", vms=vms or (VmSpec(name="vm1"), VmSpec(name="vm2")), links=())


async def findings(directories: Directories, needs: Needs, **environ: str) -> dict[str, Finding]:
    found = await examine(directories, needs, log=Silent(), environ=environ)
    assert all(finding.remedy for finding in found if finding.ok != "ok"), "each finding has a remedy"
    return {finding.name: finding for finding in found}


@pytest.fixture
def own(directories: Directories, tmp_path: Path) -> Directories:
    return replace(directories, cache=tmp_path / "cache")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_text("kernel")
    return path


async def test_a_fit_host_passes(own: Directories, tmp_path: Path, kernel: Path) -> None:
    (qemu,) = fake_qemu(tmp_path / "q")
    needs = Needs(topologies=[topology()], kernel=kernel)
    found = await findings(own, needs, VPCTL_QEMU=qemu, VPCTL_ACCELERATOR="tcg")
    assert {name: f.message for name, f in found.items() if f.ok == "failed"} == {}
    assert found["qemu"].message.startswith("QEMU 7.2.22")
    assert found["accelerator"].ok == "ok"


async def test_changes_nothing(own: Directories, tmp_path: Path) -> None:
    await findings(own, Needs(), VPCTL_QEMU="/no/qemu")
    assert not own.run.exists()
    assert not own.state.exists()
    assert not own.cache.exists()


async def test_a_missing_qemu_fails_and_the_rest_is_examined_all_the_same(own: Directories) -> None:
    found = await findings(own, Needs(), VPCTL_QEMU="/no/qemu")
    assert found["qemu"].ok == "failed"
    assert "/no/qemu" in found["qemu"].message
    assert "memory" in found


async def test_names_what_a_link_kind_misses(own: Directories, tmp_path: Path) -> None:
    (qemu,) = fake_qemu(tmp_path / "q", devices=DEVICES, sandbox=False)
    found = await findings(own, Needs(devices=["ivshmem-doorbell"]), VPCTL_QEMU=qemu)
    assert found["qemu"].message == "QEMU 7.2.22 lacks the device ivshmem-doorbell"
    assert found["sandbox"].ok == "warning"


async def test_kvm_that_does_not_run_guests_warns_under_auto_and_fails_by_name(
    own: Directories, tmp_path: Path, kernel: Path
) -> None:
    (qemu,) = fake_qemu(tmp_path / "q", boot="echo broken; exit 1")
    found = await findings(own, Needs(topologies=[topology()], kernel=kernel), VPCTL_QEMU=qemu)
    assert found["accelerator"].ok == "warning"
    by_name = topology(VmSpec(name="vm1", accelerator="kvm"))
    found = await findings(own, Needs(topologies=[by_name], kernel=kernel), VPCTL_QEMU=qemu)
    assert found["accelerator"].ok == "failed"


async def test_without_an_image_kvm_is_not_tried(own: Directories, tmp_path: Path) -> None:
    (qemu,) = fake_qemu(tmp_path / "q")
    found = await findings(own, Needs(topologies=[topology()]), VPCTL_QEMU=qemu)
    assert found["accelerator"].remedy == "vpctl image build"


async def test_each_qemu_that_a_topology_names_is_examined(own: Directories, tmp_path: Path) -> None:
    (old,) = fake_qemu(tmp_path / "old", version="QEMU emulator version 6.2.0")
    (new,) = fake_qemu(tmp_path / "new")
    vms = (VmSpec(name="vm1", qemu=old), VmSpec(name="vm2", qemu=new), VmSpec(name="vm3", qemu=new))
    found = await examine(own, Needs(topologies=[topology(*vms)]), log=Silent(), environ={})
    assert [f.ok for f in found if f.name == "qemu"] == ["failed", "ok"]


async def test_memory_counts_all_topologies_together(own: Directories) -> None:
    huge = topology(VmSpec(name="vm1", memory=1 << 50))
    found = await findings(own, Needs(topologies=[topology(), huge]), VPCTL_QEMU="/no/qemu")
    assert found["memory"].ok == "failed"


async def test_socket_paths_fail_for_a_topology_and_warn_without(own: Directories) -> None:
    long = replace(own, run=own.run / ("x" * 90))
    assert (await findings(long, Needs(topologies=[topology()]), VPCTL_QEMU="/no"))["socket paths"].ok == "failed"
    assert (await findings(long, Needs(), VPCTL_QEMU="/no"))["socket paths"].ok == "warning"


async def test_a_run_directory_open_to_others_fails(own: Directories) -> None:
    own.run.mkdir(mode=0o755)
    own.run.chmod(0o755)
    found = (await findings(own, Needs(), VPCTL_QEMU="/no"))["run directory"]
    assert (found.ok, found.remedy) == ("failed", f"chmod 700 {own.run}")


async def test_a_run_directory_that_is_a_link_fails(own: Directories, tmp_path: Path) -> None:
    own.run.symlink_to(tmp_path)
    assert (await findings(own, Needs(), VPCTL_QEMU="/no"))["run directory"].ok == "failed"


async def test_a_file_where_a_directory_should_be_fails(own: Directories) -> None:
    own.state.write_text("")
    found = (await findings(own, Needs(), VPCTL_QEMU="/no"))["state directory"]
    assert found.ok == "failed"
    assert "VPCTL_STATE_DIR" in (found.remedy or "")


async def test_a_full_disk_fails(own: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IMAGE_BUILD_BYTES", 1 << 60)
    found = await examine(own, Needs(), log=Silent(), environ={"VPCTL_QEMU": "/no"})
    assert [f.ok for f in found if f.name == "disk"] == ["ok", "failed"]
    kept = await examine(own, Needs(kernel=Path("/vmlinuz")), log=Silent(), environ={"VPCTL_QEMU": "/no"})
    assert [f.ok for f in kept if f.name == "disk"] == ["ok", "ok"]


async def test_missing_image_tools_fail_only_without_an_image(
    own: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "KEYRING", Path("/no/keyring.gpg"))
    found = (await findings(own, Needs(), VPCTL_QEMU="/no"))["image tools"]
    assert (found.ok, "debian-archive-keyring" in (found.remedy or "")) == ("failed", True)
    built = (await findings(own, Needs(kernel=Path("/vmlinuz")), VPCTL_QEMU="/no"))["image tools"]
    assert built.ok == "warning"
