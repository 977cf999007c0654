"""The rules of who may import what, and of what only one module may do; each returns the offences as lines of text.

Everything works on syntax trees, so that imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors log log_files text wait tasks fields process process_record credentials host_identity rundir",
        "topology",
        "image qemu",
        "qmp",
        "broker guest journal",
        "links",
        "plan host",
        "recovery bench",
        "supervisor client",
        "cli",
        "__main__",
    )
)
"""Lowest first (docs: design). A part imports from lower layers only; the first layer's modules also each other."""

BROKER_DOORS = frozenset({"client", "control_page", "memfd", "protocol"})
"""The broker's modules that others may import: what it is asked, what they share with it; no part of its process."""

PURE = ("topology/model.py", "plan/*.py", "qemu/argv.py", "recovery/plan.py", "links/*.py")


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


IMPURE_MODULES = _words(
    "asyncio asyncssh fcntl multiprocessing qemu select selectors shutil signal socket subprocess tempfile threading",
    "urllib vpctl.process vpctl.wait vpctl.log",
)
IMPURE_CALLS = _words(
    "open print input exists is_file is_dir stat lstat iterdir glob rglob mkdir rmdir unlink rename touch chmod",
    "read_text read_bytes write_text write_bytes symlink_to",
)

SLEEPS = frozenset({"asyncio.sleep", "time.sleep"})
SPAWNS = _words(
    "asyncio.create_subprocess_exec asyncio.create_subprocess_shell os.fork os.forkpty os.posix_spawn",
    "os.posix_spawnp os.system os.popen pty.fork",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported module as its full dotted name."""

    name: str
    line: int
    typing_only: bool


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield every module below a package's directory: its path in the package, and its tree."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        if not relative.startswith("_images/"):
            yield relative, ast.parse(path.read_text(), filename=str(path))


def imports(tree: ast.Module, relative: str, package: str = "vpctl") -> list[Import]:
    """Return what a module imports; `from a import b` counts as `a.b`, since b may be a module."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, relative, package)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(name=name, line=node.lineno, typing_only=id(node) in typing_only) for name in names]
    return found


def _origin(node: ast.ImportFrom, relative: str, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parents = [package, *Path(relative).parent.parts]
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _part(relative: str) -> str:
    return relative.split("/")[0].removesuffix(".py")


def _layer(part: str) -> int | None:
    return next((number for number, layer in enumerate(LAYERS) if part in layer), None)


def order_offences(root: Path) -> list[str]:
    """Name each import that goes up or sideways, and each part that no layer holds."""
    found = []
    for relative, tree in modules(root):
        part = _part(relative)
        own = _layer(part)
        if own is None and relative != "__init__.py":
            found.append(f"{relative}: {part} is in no layer")
            continue
        for imported in imports(tree, relative):
            other = imported.name.split(".")[1] if imported.name.startswith("vpctl.") else part
            theirs = _layer(other)
            if theirs is None or other == part or (own == 0 and theirs == 0):
                continue
            if own is None or theirs >= own:
                found.append(f"{relative}:{imported.line}: {part} must not import {imported.name}")
    return found


def sealed_offences(root: Path) -> list[str]:
    """Name each import from outside of what only a process itself runs: all of the supervisor, most of the broker."""
    found = []
    for relative, tree in modules(root):
        for imported in imports(tree, relative):
            _, part, module, *_ = [*imported.name.split("."), "", ""]
            sealed = part == "supervisor" or (part == "broker" and module not in BROKER_DOORS)
            if imported.name.startswith("vpctl.") and sealed and _part(relative) != part:
                found.append(f"{relative}:{imported.line}: {imported.name} is for the {part}'s own process")
    return found


def private_offences(root: Path) -> list[str]:
    """Name what is imported from inside of other projects: it may change its name with any release of theirs."""
    return [
        f"{relative}:{imported.line}: {imported.name} is private"
        for relative, tree in modules(root)
        for imported in imports(tree, relative)
        if not imported.name.startswith(("vpctl.", "__future__"))
        and any(part.startswith("_") for part in imported.name.split("."))
    ]


def impure_offences(root: Path) -> list[str]:
    """Name what a pure module does that reaches outside: imports and calls."""
    found = []
    for relative, tree in modules(root):
        if not any(fnmatch(relative, pattern) for pattern in PURE):
            continue
        for imported in imports(tree, relative):
            if any(imported.name == name or imported.name.startswith(f"{name}.") for name in IMPURE_MODULES):
                found.append(f"{relative}:{imported.line}: pure, but imports {imported.name}")
        found += [
            f"{relative}:{node.lineno}: pure, but calls {name}"
            for node, name in calls(tree)
            if name.split(".")[-1] in IMPURE_CALLS
        ]
        found += [
            f"{relative}:{node.lineno}: pure, but async"
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor | ast.Await)
        ]
    return found


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def privilege_offences(root: Path) -> list[str]:
    """Name each sleep outside of wait.py, each spawn outside of process.py, each exit outside of a `__main__`.

    The broker spawns too: it must be the QEMUs' parent, with its own bookkeeping and without asyncio's.
    """
    found = []
    for relative, tree in modules(root):
        spawns = relative == "process.py" or _part(relative) == "broker"
        for imported in imports(tree, relative):
            if imported.name.split(".")[0] == "subprocess" and not spawns:
                found.append(f"{relative}:{imported.line}: only process.py starts processes")
        for node, name in calls(tree):
            if name in SLEEPS and relative != "wait.py":
                found.append(f"{relative}:{node.lineno}: only wait.py sleeps")
            if name in SPAWNS and not spawns:
                found.append(f"{relative}:{node.lineno}: only process.py starts processes")
            if name == "sys.exit" and not relative.endswith("__main__.py"):
                found.append(f"{relative}:{node.lineno}: only __main__ exits")
    return found


def foreign_imports(root: Path, part: str) -> list[str]:
    """Name what a part imports at run time, through all of our modules it reaches, that is not standard library."""
    trees = {_dotted(relative): (relative, tree) for relative, tree in modules(root)}
    todo = [name for name, (relative, _) in trees.items() if _part(relative) == part]
    seen: set[str] = set()
    found = []
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        relative, tree = trees[name]
        for imported in imports(tree, relative):
            if imported.typing_only:
                continue
            if imported.name.split(".")[0] == "vpctl":
                todo += [ours for ours in _prefixes(imported.name) if ours in trees]
            elif imported.name.split(".")[0] not in sys.stdlib_module_names:
                found.append(f"{relative}:{imported.line}: {part} reaches {imported.name}")
    return sorted(found)


def _dotted(relative: str) -> str:
    parts = ["vpctl", *relative.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _prefixes(name: str) -> Iterable[str]:
    """Return a dotted name and its parents: importing a.b.c runs a and a.b as well."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))
