"""The driver's pure parts, compiled in user space by this host's own compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[3] / "images/driver"
HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-I{DRIVER}", f"-I{HERE}")


def compile_c(*arguments: str) -> str:
    """Run the compiler; what it said against the sources, or nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("`gcc` is not installed")
    done = subprocess.run(["gcc", *FLAGS, *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def library(directory: Path, source: str) -> ctypes.CDLL:
    """Compile a source of this directory, and load it."""
    made = directory / f"{Path(source).stem}.so"
    assert compile_c("-shared", "-fPIC", "-fsanitize=undefined", "-o", str(made), source) == ""
    return ctypes.CDLL(str(made))


def run_sanitized(program: Path, *arguments: str) -> None:
    """Run a program that was compiled with a sanitizer; it is to end well and say nothing."""
    # Without randomized addresses: older thread sanitizers take an unlucky one for a broken process.
    argv = ["setarch", "-R", str(program), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if "unexpected memory mapping" in done.stderr or "setarch: failed" in done.stderr:
        pytest.skip(f"the sanitizer does not run here: {done.stderr.strip()[:200]}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Every function of ring.h, without its prefix: 32-bit numbers in, one out."""
    loaded = library(tmp_path_factory.mktemp("ring"), "ring.c")
    for name, arguments in {
        "record_size": 1, "worst_room": 1, "offset": 2, "until_end": 2, "room": 3, "padding": 3, "passed": 3,
        "room_position": 3, "head_valid": 4, "tail_valid": 3, "packet_valid": 4, "padding_valid": 4,
    }.items():  # fmt: skip
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_uint32] * arguments
        function.restype = ctypes.c_uint32
    return loaded
