"""`tests/unit` mirrors the package: each module with logic has a test file of its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE, TESTS = ROOT / "vpctl", ROOT / "tests"

TESTED_IN = {
    "cli/app": "unit/cli/test_main",
    "cli/console": "vm/test_exec",
    "cli/crash": "vm/test_faults",
    "cli/doctor": "unit/host/test_doctor",
    "cli/execute": "vm/test_exec",
    "cli/image": "vm/test_image",
    "cli/list_": "unit/cli/test_streams",
    "cli/schema": "unit/cli/test_main",
    "cli/verb": "unit/cli/test_main",
    "cli/version": "unit/cli/test_main",
    "cli/view/columns": "unit/cli/view/test_bench_table",
    "client/context": "unit/cli/test_choose",
    "client/soak/report": "unit/client/soak/test_run",
    "links/kind": "unit/links/test_kinds",
    "recovery/ops": "unit/recovery/test_execute",
    "supervisor/broker_connection": "unit/supervisor/watch/test_vrings",
    "supervisor/hotplug/hooks": "unit/supervisor/hotplug/test_ops",
    "supervisor/inject": "vm/test_faults",
    "supervisor/vm/heartbeats": "unit/supervisor/watch/test_interfaces",
    "supervisor/vm/spawn": "vm/test_lifecycle",
    "supervisor/watch/qemu": "vm/test_stuck",
    "topology/raw": "unit/topology/test_schema",
}
"""Modules without a file of their own: interfaces, a few lines, or what only a real guest or process shows."""


def with_logic() -> Iterator[str]:
    """Yield the modules that define a function, without `.py`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if path.stem.startswith("__") or relative.parts[0] == "_images":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree)):
            yield relative.with_suffix("").as_posix()


def own_file(module: str) -> Path:
    path = TESTS / "unit" / module
    return path.with_name(f"test_{path.name}.py")


def test_each_module_with_logic_has_a_test_file_of_its_name() -> None:
    lacking = [module for module in with_logic() if not own_file(module).exists()]
    assert lacking == [*TESTED_IN], "write the file, or say which one tests it"


def test_what_is_said_to_test_a_module_is_there() -> None:
    assert [where for where in TESTED_IN.values() if not (TESTS / f"{where}.py").exists()] == []
