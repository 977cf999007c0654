"""A disk that is full, in the state directory and in the cache, at the start and later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.commandline import Vpctl

# Mounts need root; where there is no root even CI has to do without.
pytestmark = pytest.mark.vm if os.geteuid() == 0 else pytest.mark.skipif(True, reason="only root mounts a small disk")


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Mount a file system of few bytes on a directory."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "vpctl-test", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Use up what is left of a disk."""
    path = place / "filler"
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
    return path


def test_up_on_a_full_state_directory_says_so_and_starts_nothing(vpctl: Vpctl) -> None:
    with small_disk(vpctl.directories.state, "16k"):
        fill(vpctl.directories.state)
        error = vpctl.run("up", "-f", "json", str(vpctl.spare_file("alone")), status=3).data["error"]
        assert error["code"] == "host"
        assert "No space left" in error["message"]
        assert vpctl.processes() == []
        vpctl.run("down", "--all")


def test_state_directory_that_fills_up_later_costs_no_running_guest(vpctl: Vpctl) -> None:
    with small_disk(vpctl.directories.state, "4m"):
        vpctl.run("up", str(vpctl.spare_file("alone", "{vm1: {}, vm2: {health: {retries: 1}}}")))
        before = vpctl.json("status")
        filler = fill(vpctl.directories.state)
        vpctl.run("crash", "vm2", "--how", "kill")
        error = vpctl.run("recover", "-f", "json", "vm2", status=6).data["error"]
        assert "No space left" in error["message"]
        assert vpctl.guest("vm1", "echo well") == "well\n"
        filler.unlink()
        assert vpctl.json("recover", "vm2")["ok"]
        status = vpctl.json("status")
        assert (status["state"], status["vms"][0]["pid"]) == ("up", before["vms"][0]["pid"])
        vpctl.run("down", "alone")


def test_image_that_does_not_fit_into_the_cache_is_not_left_in_half(vpctl: Vpctl, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with small_disk(cache, "2m"):
        environ = {"VPCTL_CACHE_DIR": str(cache)}
        error = vpctl.run("up", "-f", "json", str(vpctl.spare_file("alone")), status=3, environ=environ).data["error"]
        assert error["code"] == "host"
        assert "MiB free" in error["message"]
        assert str(cache) in error["message"] + error["hint"]
        assert [path for path in (cache / "images").glob("*") if path.is_dir()] == []
        vpctl.assert_nothing_left()
