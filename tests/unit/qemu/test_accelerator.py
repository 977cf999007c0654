"""KVM is believed only after a kernel ran under it; the verdict is shared, remembered, and forgotten in time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.qemu import calls, fake_qemu
from vpctl.errors import HostError, UsageError
from vpctl.log import Silent
from vpctl.qemu import accelerator
from vpctl.qemu.accelerator import Verdict, boot_argv, cpu_model, decide, remembered, try_boot
from vpctl.qemu.probe import probe

WORKS = """echo '[    0.000000] Linux version 6.1.0-50-cloud-amd64'
echo '[    0.900000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'"""
ABORTS = "echo 'error: failed to set MSR 0x10a to 0x0'; kill -ABRT $$"
REFUSES = "echo 'Could not access KVM kernel module: Permission denied'; exit 1"
HANGS = "exec sleep 1000"
HANGS_LATER = "echo '[    0.000000] Linux version 6.1'; echo '[    0.120000] x86/fpu: x'; exec sleep 1000"


class World:
    """A fake QEMU, kernel and KVM device in one directory."""

    def __init__(self, root: Path, boot: str, accelerators: tuple[str, ...] = ("tcg", "kvm")) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.argv = fake_qemu(root / "q", boot=boot, accelerators=accelerators)
        self.kernel = root / "vmlinuz"
        self.kernel.write_text("kernel")
        self.device = root / "kvm"
        self.device.touch()
        self.cache = root / "cache"

    async def decide(self, wanted: Any = "auto", *, fresh: bool = False, **environ: str) -> Verdict:
        qemu = await probe(self.argv, cache=self.cache)
        return await decide(
            wanted,
            qemu=qemu,
            kernel=self.kernel,
            cache=self.cache,
            log=Silent(),
            fresh=fresh,
            environ=environ,
            device=self.device,
        )

    async def remembered(self) -> Verdict | None:
        qemu = await probe(self.argv, cache=self.cache)
        return remembered("auto", qemu=qemu, kernel=self.kernel, cache=self.cache, environ={}, device=self.device)

    @property
    def boots(self) -> int:
        return sum("vpctl-trial" in call for call in calls(self.root / "q"))

    def rewrite(self, **changes: Any) -> None:
        """Change what is remembered."""
        path = self.cache / "accelerator.json"
        data = json.loads(path.read_text())
        for verdict in data["verdicts"].values():
            verdict.update({key: value for key, value in changes.items() if key != "boot"})
        path.write_text(json.dumps({**data, **{key: value for key, value in changes.items() if key == "boot"}}))


async def test_a_kernel_that_runs_to_its_end_proves_kvm(tmp_path: Path) -> None:
    verdict = await World(tmp_path, WORKS).decide()
    assert (verdict.accelerator, verdict.cpu_model, verdict.warning) == ("kvm", "host", None)


@pytest.mark.parametrize(
    ("boot", "reason"),
    [
        (ABORTS, "QEMU was killed by SIGABRT in a trial boot: error: failed to set MSR 0x10a to 0x0"),
        (REFUSES, "QEMU ended with exit code 1 in a trial boot: Could not access KVM kernel module"),
        ("exit 0", "QEMU ended with exit code 0 in a trial boot: no message"),
    ],
)
async def test_falls_back_to_tcg_and_says_why(tmp_path: Path, boot: str, reason: str) -> None:
    verdict = await World(tmp_path, boot).decide()
    assert (verdict.accelerator, verdict.cpu_model) == ("tcg", "max,-erms,-fsrm")
    assert reason in verdict.reason
    assert verdict.reason in (verdict.warning or "")
    assert "vpctl doctor -v" in (verdict.hint or "")


@pytest.mark.parametrize(
    ("boot", "reason"),
    [(HANGS, "printed nothing in 2 s"), (HANGS_LATER, "stopped at `[    0.120000] x86/fpu: x`")],
)
async def test_a_guest_that_hangs_is_given_up_and_gone(tmp_path: Path, boot: str, reason: str) -> None:
    world = World(tmp_path, boot)
    trial = await try_boot(boot_argv(world.argv, world.kernel, "host"), silence=2)
    assert not trial.works
    assert reason in trial.reason  # that nothing is left is what conftest checks


async def test_a_guest_that_speaks_for_ever_is_given_up_too(tmp_path: Path) -> None:
    world = World(tmp_path, "while :; do echo '[    0.1] again'; sleep 0.05; done")
    trial = await try_boot(boot_argv(world.argv, world.kernel, "host"), silence=5, limit=0.5)
    assert not trial.works


@pytest.mark.parametrize("boot", [WORKS, ABORTS])
async def test_boots_once_however_many_ask(tmp_path: Path, boot: str) -> None:
    world = World(tmp_path, f"sleep 0.2; {boot}")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.decide()) for _ in range(5)]
    assert world.boots == 1
    assert len({task.result() for task in tasks}) == 1
    await world.decide()
    assert world.boots == 1


async def test_fresh_boots_again_but_once_for_all_that_ask_together(tmp_path: Path) -> None:
    world = World(tmp_path, f"sleep 0.2; {WORKS}")
    await world.decide()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(world.decide(fresh=True))
    assert world.boots == 2


@pytest.mark.parametrize(("boot", "boots"), [(ABORTS, 2), (WORKS, 1)])
async def test_a_bad_verdict_expires_and_a_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, boots: int
) -> None:
    world = World(tmp_path, boot)
    await world.decide()
    # Not a moment long ago, which a host that has just booted does not have.
    monkeypatch.setattr(accelerator, "NEGATIVE_LIFETIME", 0.0)
    await world.decide()
    assert world.boots == boots


@pytest.mark.parametrize("change", ["boot", "kernel", "qemu", "damage"])
async def test_tries_again_when_anything_changed(tmp_path: Path, change: str) -> None:
    world = World(tmp_path, WORKS)
    await world.decide()
    match change:
        case "boot":
            world.rewrite(boot="another boot of the host")
        case "kernel":
            world.kernel.write_text("a newer kernel")
        case "qemu":
            fake_qemu(tmp_path / "q", boot=WORKS, version="QEMU emulator version 10.0.2")
        case _:
            (world.cache / "accelerator.json").write_text("{")
    await world.decide()
    assert world.boots == 2


async def test_works_without_a_cache_that_can_be_written(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    world.cache.write_text("a file where the directory should be")
    assert (await world.decide()).accelerator == "kvm"


async def test_no_device_needs_no_boot(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    world.device.unlink()
    verdict = await world.decide()
    assert verdict.accelerator == "tcg"
    assert verdict.reason.startswith("there is no ")
    assert world.boots == 0


async def test_a_qemu_without_kvm_needs_no_boot(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS, accelerators=("tcg",))
    assert "was built without KVM" in (await world.decide()).reason
    assert world.boots == 0


async def test_a_forbidden_device_hints_at_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, WORKS)

    # Root may open everything, so the refusal itself is made up, at our own module's door.
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    await probe(world.argv, cache=world.cache)
    monkeypatch.setattr(accelerator, "open_device", refuse)
    verdict = await world.decide()
    assert "no permission to open" in verdict.reason
    assert "usermod -aG kvm" in (verdict.hint or "")

    def nameless(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("vpctl.qemu.accelerator.pwd.getpwuid", nameless)
    assert f"uid {os.getuid()} has no name here" in ((await world.decide()).hint or "")


async def test_kvm_asked_for_by_name_must_work(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="KVM was asked for and does not work: QEMU was killed by SIGABRT"):
        await World(tmp_path / "bad", ABORTS).decide("kvm")
    assert (await World(tmp_path / "good", WORKS).decide("kvm")).accelerator == "kvm"


async def test_tcg_asked_for_is_neither_tried_nor_warned_of(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    verdict = await world.decide("tcg")
    assert (verdict.accelerator, verdict.warning, world.boots) == ("tcg", None, 0)


async def test_the_environment_wins(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    assert (await world.decide("kvm", VPCTL_ACCELERATOR="tcg")).accelerator == "tcg"
    assert (await world.decide("tcg", VPCTL_ACCELERATOR="auto")).accelerator == "kvm"
    with pytest.raises(UsageError, match="VPCTL_ACCELERATOR is `hvf`"):
        await world.decide(VPCTL_ACCELERATOR="hvf")


async def test_what_is_remembered_is_told_without_a_boot(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    assert await world.remembered() is None
    assert world.boots == 0
    verdict = await world.decide()
    assert await world.remembered() == verdict
    assert world.boots == 1
    world.device.unlink()
    without = await world.remembered()
    assert without is not None
    assert without.accelerator == "tcg"


@pytest.mark.parametrize(
    ("name", "version", "model"),
    [
        ("kvm", (7, 2, 0), "host"),
        ("kvm", (11, 1, 0), "host"),
        ("tcg", (7, 2, 22), "max,-erms,-fsrm"),
        ("tcg", (10, 0, 2), "max,-erms,-fsrm,phys-bits=46"),
        ("tcg", (11, 1, 0), "max,-erms,-fsrm,phys-bits=46"),
    ],
)
def test_cpu_model_fits_accelerator_and_version(name: str, version: tuple[int, int, int], model: str) -> None:
    assert cpu_model(name, version) == model


def real_kernel() -> Path:
    """Return a kernel that is at hand: a built image's, or the host's own."""
    cache = Path.home() / ".cache/vpctl/images"
    for pattern, root in (("**/vmlinuz*", cache), ("vmlinuz-*", Path("/boot"))):
        for path in sorted(root.glob(pattern)):
            return path
    pytest.skip(f"no kernel in {cache} or /boot: run `vpctl image build`")


def on_tcg(argv: Sequence[str]) -> list[str]:
    """Return a trial's command line for the accelerator that works everywhere."""
    return ["tcg" if word == "kvm" else word for word in argv]


@pytest.mark.vm
async def test_a_real_kernel_without_a_root_counts_as_working() -> None:
    """The same boot under TCG, which works everywhere: what is looked for is what a real kernel says."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    argv = on_tcg(boot_argv((qemu,), real_kernel(), "max,-erms,-fsrm"))
    trial = await try_boot(argv, silence=60, limit=120)
    assert trial.works, trial.reason


@pytest.mark.vm
async def test_a_real_qemu_that_refuses_to_start_is_told_from_one_that_hangs() -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    # Under TCG: a KVM that does not work may end QEMU before it looks for its kernel.
    trial = await try_boot(on_tcg(boot_argv((qemu,), Path("/no/kernel"), "max,-erms,-fsrm")))
    assert not trial.works
    assert "ended with exit code 1 in a trial boot" in trial.reason
