"""`examples/demo`, which is `make demo`, with real guests: to its end, and interrupted as Ctrl-C would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.commandline import LIMIT, Vpctl, user

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def vpctl() -> Iterator[Vpctl]:
    with user() as made:
        yield made


def demo(vpctl: Vpctl, tmp_path: Path) -> subprocess.Popen[str]:
    """Start the demo in a checkout whose vpctl is the one that is tested."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = tmp_path / ".venv/bin/vpctl"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vpctl "$@"\n')
    command.chmod(0o755)
    return subprocess.Popen(
        [tmp_path / "examples/demo"],
        env={**vpctl.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def test_it_comes_to_its_end(vpctl: Vpctl, tmp_path: Path) -> None:
    output, _ = demo(vpctl, tmp_path).communicate(timeout=2 * LIMIT)
    assert "came back, the other never stopped" in output, output
    after = output.partition("$ vpctl crash vm1 --how kill")[2]
    for part in (
        "qemu-exit, recovered by relink",
        "packets transmitted",
        "set_link lan0.g1.net off → ok",
        "device_add",
    ):
        assert part in after, output
    vpctl.run("status", status=8)


@pytest.mark.parametrize("moment", ["$ vpctl up", "lan0: vhost-pci between", "$ vpctl recover"])
def test_interrupted_it_leaves_nothing(vpctl: Vpctl, tmp_path: Path, moment: str) -> None:
    with demo(vpctl, tmp_path) as process:
        assert process.stdout is not None
        seen = ""
        while moment not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        for _ in range(2):  # somebody impatient
            os.killpg(process.pid, signal.SIGINT)
        seen += process.stdout.read()
    assert process.returncode == 130, seen
    assert "vhost-pci: stopped" in seen or "nothing runs" in seen, seen
    vpctl.run("status", status=8)
