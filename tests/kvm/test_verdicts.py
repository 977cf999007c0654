"""What the trial boot says of a KVM that works, one that hangs, and a QEMU that ends under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.booting import QEMU, built
from vpctl.qemu.accelerator import boot_argv, try_boot

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(
    ("more", "works", "reason"),
    [
        ("", True, "a trial boot under KVM took"),
        ("-S", False, "printed nothing in 8 s"),  # its CPUs never run, as where KVM hangs at the first exit
        ("-cpu host,+vmx,+svm,enforce", False, "in a trial boot: "),  # no CPU has both: QEMU ends by itself
    ],
    ids=["works", "hangs", "ends"],
)
async def test_the_trial_tells_what_this_kvm_does(tmp_path: Path, more: str, works: bool, reason: str) -> None:
    image = await built("micro", (6, 1))
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\nexec {QEMU} "$@" {more}\n')
    qemu.chmod(0o755)
    trial = await try_boot(boot_argv((str(qemu),), image.kernel, "host"))
    assert trial.works is works, trial
    assert reason in trial.reason
