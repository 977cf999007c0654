"""Who may import what: design's order of layers, pure modules, a broker of the standard library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import import_rules

PACKAGE = Path(__file__).parents[2] / "vpctl"


def made_up(tmp_path: Path, sources: dict[str, str]) -> Path:
    """Write a package: module paths without `.py`, and what stands in them."""
    for name, source in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_imports_go_one_way() -> None:
    assert import_rules.order_offences(PACKAGE) == []


def test_nothing_imports_the_supervisor_nor_the_brokers_own_modules() -> None:
    assert import_rules.sealed_offences(PACKAGE) == []


@pytest.mark.parametrize(
    "source",
    [
        "from vpctl.supervisor.state import World",
        "from vpctl import supervisor",
        "import vpctl.supervisor.control",
        "def f():\n    from vpctl.supervisor.state import World",
        "from vpctl.broker.service import Broker",
        "from vpctl.broker.ivshmem.message import Peer",
        "from vpctl import broker",
        "from vpctl.broker import resources",
    ],
)
def test_an_import_of_what_only_a_process_itself_runs_is_named(tmp_path: Path, source: str) -> None:
    root = made_up(tmp_path, {"cli/a": source})
    (found,) = import_rules.sealed_offences(root)
    assert found.startswith("cli/a.py:")


def test_a_process_imports_itself_and_others_the_brokers_doors(tmp_path: Path) -> None:
    own = {"broker/a": "from vpctl.broker.service import x", "supervisor/__main__": "import vpctl.supervisor.state"}
    doors = "from vpctl.broker.client import connect\nfrom vpctl.broker import control_page, memfd, protocol"
    assert import_rules.sealed_offences(made_up(tmp_path, {**own, "links/a": doors})) == []


def test_nothing_private_of_other_projects_is_imported() -> None:
    assert import_rules.private_offences(PACKAGE) == []


def test_a_private_import_is_named(tmp_path: Path) -> None:
    root = made_up(tmp_path, {"cli/a": "from typer._click import exceptions\nimport os\nfrom vpctl.cli import _b"})
    assert import_rules.private_offences(root) == ["cli/a.py:1: typer._click.exceptions is private"]


def test_pure_modules_do_nothing() -> None:
    assert import_rules.impure_offences(PACKAGE) == []


def test_one_module_sleeps_one_spawns_and_only_main_exits() -> None:
    assert import_rules.privilege_offences(PACKAGE) == []


def test_broker_needs_the_standard_library_only() -> None:
    assert import_rules.foreign_imports(PACKAGE, "broker") == []


def test_broker_runs_without_site_packages() -> None:
    if not (PACKAGE / "broker").is_dir():
        pytest.skip("there is no broker yet")
    files = [path for path in (PACKAGE / "broker").rglob("*.py") if path.stem not in ("__init__", "__main__")]
    names = [".".join(path.relative_to(PACKAGE / "broker").with_suffix("").parts) for path in files]
    lines = ["import sys", f"sys.path.insert(0, {str(PACKAGE.parent)!r})", "import vpctl.broker"]
    source = "\n".join(lines + [f"import vpctl.broker.{name}" for name in names])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("sources", "offence"),
    [
        ({"topology/model": "from vpctl.qemu.argv import x"}, "topology must not import vpctl.qemu.argv.x"),
        ({"topology/model": "import vpctl.cli"}, "topology must not import vpctl.cli"),
        ({"topology/model": "from vpctl import cli"}, "topology must not import vpctl.cli"),
        ({"topology/model": "from ..cli.view import render"}, "topology must not import vpctl.cli.view.render"),
        ({"topology/model": "def f():\n    from vpctl import plan"}, "topology must not import vpctl.plan"),
        (
            {"topology/model": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vpctl.qmp"},
            "topology must not import vpctl.qmp",
        ),
        ({"qemu/probe": "import vpctl.image"}, "qemu must not import vpctl.image"),
        ({"errors": "import vpctl.topology"}, "errors must not import vpctl.topology"),
        ({"__init__": "import vpctl.cli"}, "__init__ must not import vpctl.cli"),
        ({"helpers": "pass"}, "helpers is in no layer"),
    ],
)
def test_order_is_enforced(tmp_path: Path, sources: dict[str, str], offence: str) -> None:
    (found,) = import_rules.order_offences(made_up(tmp_path, sources))
    assert found.endswith(offence)


def test_order_allows_what_lies_below_and_beside_in_one_part(tmp_path: Path) -> None:
    below = "from vpctl.links.kind import x\nfrom . import x\nimport json\nfrom vpctl.errors import HostError\n"
    root = made_up(tmp_path, {"links/stream": below, "wait": "import vpctl.errors", "__main__": "import vpctl.cli"})
    assert import_rules.order_offences(root) == []


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("import asyncio", "imports asyncio"),
        ("from os import path\nfrom asyncio import Queue", "imports asyncio.Queue"),
        ("def f(p):\n    return p.read_text()", "calls p.read_text"),
        ("open('x')", "calls open"),
        ("from vpctl.process import run", "imports vpctl.process.run"),
        ("async def f(): pass", "async"),
    ],
)
def test_purity_is_enforced(tmp_path: Path, source: str, offence: str) -> None:
    (found,) = import_rules.impure_offences(made_up(tmp_path, {"links/stream": source, "cli/up": source}))
    assert found.startswith("links/stream.py:")
    assert found.endswith(offence)


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("import asyncio\nasync def f(): await asyncio.sleep(1)", "only wait.py sleeps"),
        ("import time\ntime.sleep(1)", "only wait.py sleeps"),
        ("from subprocess import run", "only process.py starts processes"),
        ("import os\nos.system('x')", "only process.py starts processes"),
        ("import sys\nsys.exit(1)", "only __main__ exits"),
    ],
)
def test_privileges_are_enforced(tmp_path: Path, source: str, offence: str) -> None:
    (found,) = import_rules.privilege_offences(made_up(tmp_path, {"qmp/session": source}))
    assert found.endswith(offence)


def test_finds_a_foreign_library_behind_two_of_our_modules(tmp_path: Path) -> None:
    sources = {
        "broker/service": "import json\nfrom vpctl.log import Log",
        "log": "from vpctl import wait",
        "wait": "import rich",
    }
    root = made_up(tmp_path, sources)
    assert import_rules.foreign_imports(root, "broker") == ["wait.py:1: broker reaches rich"]


def test_a_package_that_is_only_passed_through_counts(tmp_path: Path) -> None:
    sources = {
        "broker/a": "from vpctl.topology.model import x",
        "topology/model": "",
        "topology/__init__": "import yaml",
    }
    root = made_up(tmp_path, sources)
    assert import_rules.foreign_imports(root, "broker") == ["topology/__init__.py:1: broker reaches yaml"]
