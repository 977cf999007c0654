"""Put pydantic's errors into words and places of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from vpctl.topology.document import Node
from vpctl.topology.problems import Path, Problems, quoted, unknown
from vpctl.topology.raw import FileRaw, HealthRaw, ImageRaw, LinkRaw, RecoveryRaw, VmRaw
from vpctl.topology.values import WrongValueError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SUBJECTS = {"vms": "VM", "links": "link"}
EXPECTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
}
MISSING_HINTS = {
    "version": "begin the file with `version: 1`",
    "vms": "for instance `vms: {vm1: {}, vm2: {}}`",
    "endpoints": "for instance `endpoints: [vm1, vm2]`",
    "kernel": "an image of your own needs at least a kernel",
}


def explain(error: ValidationError, root: Node, problems: Problems, hints: Mapping[str, str]) -> None:
    """Report each error at its place; `hints` is what to say of a key that is missing."""
    for details in error.errors(include_url=False):
        path, is_key = _path(details["loc"], root)
        if details["type"] == "missing":
            _explain_missing(path, root, problems, {**MISSING_HINTS, **hints})
            continue
        at_key = is_key or details["type"] == "extra_forbidden"
        mark = root.mark_of_key(path) if at_key else root.mark_of(path)
        problems.add(path, mark, *_words(details, path, is_key=is_key))


def broken_paths(error: ValidationError, root: Node) -> Iterator[Path]:
    """Yield the paths of the values that are not to be used; a mapping that lacks a key is one."""
    for details in error.errors(include_url=False):
        path, _ = _path(details["loc"], root)
        yield path[:-1] if details["type"] == "missing" else path


def subject(path: Path) -> str:
    """Name what a path leads to: "VM `vm1`: `memory`", "`defaults`: `health.retries`", "`version`"."""
    parts = [str(part) for part in path if isinstance(part, str)]
    if len(parts) > 1 and parts[0] in SUBJECTS:
        owner, rest = f"{SUBJECTS[parts[0]]} {quoted(parts[1])}", parts[2:]
    elif len(parts) > 1:
        owner, rest = quoted(parts[0]), parts[1:]
    else:
        owner, rest = "", parts
    return ": ".join(part for part in (owner, quoted(".".join(rest)) if rest else "") if part)


def model_at(path: Path) -> type[BaseModel]:
    """Return the model of the mapping at a path, to list the keys that it knows."""
    models: dict[str, type[BaseModel]] = {"image": ImageRaw, "health": HealthRaw, "recovery": RecoveryRaw}
    if not path:
        return FileRaw
    owner_depth = 2 if path[0] in SUBJECTS else 1
    if len(path) > owner_depth and path[-1] in models:
        return models[str(path[-1])]
    return LinkRaw if path[0] == "links" else VmRaw


def _path(loc: tuple[int | str, ...], root: Node) -> tuple[Path, bool]:
    """Return the path in the file for pydantic's location, and whether the key is meant rather than its value.

    The location also names branches of unions, and keys of a mapping come as `(…, key, "[key]")`.
    """
    is_key = bool(loc) and loc[-1] == "[key]"
    path: Path = ()
    for part in loc[:-1] if is_key else loc:
        if not (isinstance(part, str) and part.startswith("<") and root.find((*path, part)) is None):
            path = (*path, part)
    return path, is_key


def _explain_missing(path: Path, root: Node, problems: Problems, hints: Mapping[str, str]) -> None:
    if problems.breaks(path):
        return  # it is there, but was refused
    owner, key = path[:-1], str(path[-1])
    where = f"{subject(owner)}: " if owner else ""
    problems.add(path, root.mark_of_key(owner), f"{where}key {quoted(key)} is missing", hints.get(key))


def _words(details: ErrorDetails, path: Path, *, is_key: bool) -> tuple[str, str | None]:
    """Return message and hint."""
    kind, context = details["type"], details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, WrongValueError):
        where = subject(path[:-1]) if is_key else subject(path)
        return f"{where}: {cause.message}", cause.hint
    if kind == "extra_forbidden":
        owner = f"{subject(path[:-1])}: " if len(path) > 1 else ""
        known = list(model_at(path[:-1]).model_fields)
        return f"{owner}unknown key {quoted(path[-1])}", unknown(str(path[-1]), known, plural="keys")
    what, hint = _expectation(kind, context, details["input"], path)
    return (f"{subject(path)}: {what}" if path else f"the file: {what}"), hint


def _expectation(kind: str, context: dict[str, Any], value: object, path: Path) -> tuple[str, str | None]:
    """Say what was expected instead of `value`."""
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}, got {_described(value)}", _type_hint(kind, value, path)
    if kind == "literal_error":
        return _not_one_of(value, path)
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = context.get("ge", context.get("le"))
        return f"{quoted(value)} is too {'small' if 'ge' in context else 'large'}", f"at {_bound(context)} {limit}"
    if kind in ("too_short", "too_long") and path[-1] == "endpoints":
        count = context.get("actual_length")
        return f"a link has two endpoints, not {count}", "more VMs are joined by more links"
    if kind == "too_short":
        return f"at least one {SUBJECTS.get(str(path[-1]), '')} is needed", MISSING_HINTS.get(str(path[-1]))
    if kind == "string_too_short":
        return "must not be empty", None
    if kind == "string_pattern_mismatch":
        hints = {"subnet": "for instance `10.77.0.0/30`", "ssh_user": "for instance `root`"}
        what = "is not an IPv4 network" if path[-1] == "subnet" else "is not valid"
        return f"{quoted(value)} {what}", hints.get(str(path[-1]))
    return f"{quoted(value)} is not valid ({kind})", None


def _bound(context: dict[str, Any]) -> str:
    return "least" if "ge" in context else "most"


def _not_one_of(value: object, path: Path) -> tuple[str, str | None]:
    choices = _choices(path)
    if not isinstance(value, str):
        return f"expected one of {', '.join(quoted(c) for c in choices)}, got {_described(value)}", None
    return f"{quoted(value)} is not known", unknown(value, choices, plural="values")


def _choices(path: Path) -> list[str]:
    annotation = model_at(path[:-1]).model_fields[str(path[-1])].annotation
    return [str(choice) for choice in getattr(annotation, "__args__", ())]


def _described(value: object) -> str:
    """Say what a value is, so that a string that looks like a number can be told from one."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    return quoted(value)


def _type_hint(kind: str, value: object, path: Path) -> str | None:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "put it in quotes to make it a string"
    if kind.startswith("int") and isinstance(value, str) and value.isdecimal():
        return "write it without quotes"
    if kind == "list_type" and path[-1:] == ("endpoints",):
        return MISSING_HINTS["endpoints"]
    return None
