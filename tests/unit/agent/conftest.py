"""The agent's C sources, compiled by this host's own compiler: the program, and its pure parts as a library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[3] / "images/agent"
PURE = ("pattern.c", "plan.c", "links.c", "heartbeat.c")
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")


def _compile(*arguments: str) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("`gcc` is not installed")
    done = subprocess.run(["gcc", *FLAGS, *arguments], cwd=AGENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; with the sanitizers, so that a test also finds what it does not look for."""
    program = tmp_path_factory.mktemp("agent") / "vpctl-agent"
    sources = sorted(path.name for path in AGENT.glob("*.c"))
    _compile("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-o", str(program), *sources)
    return program


@pytest.fixture(scope="session")
def pure(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The parts that touch nothing but their arguments."""
    library = tmp_path_factory.mktemp("pure") / "pure.so"
    _compile("-O1", "-shared", "-fPIC", "-o", str(library), *PURE)
    loaded = ctypes.CDLL(str(library))
    loaded.plan_parse.restype = ctypes.c_char_p
    loaded.heartbeat_format.restype = ctypes.c_size_t
    return loaded
