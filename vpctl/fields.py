"""Reads what came as JSON into a dataclass: every field of its type and within bounds, none missing, none more.

The broker uses the standard library only, and its clients are a supervisor of ours, as a rule; what else connects may
say anything. Types: str (without NUL, and such as a file name could be), int, float, bool, bytes (in hexadecimal),
tuples, and dataclasses; bounds by `Annotated`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from vpctl.errors import UsageError

T = TypeVar("T")

LONGEST = 131071
"""Characters of a text without a bound of its own: Linux's MAX_ARG_STRLEN, less its NUL."""

LARGEST = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    """The least and the largest value of a number; of a text, bytes or a list: its length."""

    least: float
    largest: float
    absolute: bool = False
    """Of a text: whether it has to begin with a slash."""


Name = Annotated[str, Within(1, 255)]
PathText = Annotated[str, Within(1, 4095, absolute=True)]
"""An absolute path: where the broker's own directory is concerns none of its clients."""

Count = Annotated[int, Within(0, (1 << 31) - 1)]


def read(kind: type[T], data: object, *, what: str) -> T:
    """Return a dataclass with the values of an object; UsageError that names the field, after `what`, otherwise."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{what}: {_shown(data)} is no object")
    fields = _fields(kind)  # type: ignore[arg-type]
    if unknown := sorted(str(key) for key in data.keys() - fields.keys()):
        raise UsageError(f"{what}: there is no {_shown(unknown[0])}")
    values = {}
    for name, (hint, needed) in fields.items():
        if name in data:
            values[name] = _value(hint, data[name], f"{what}: {name}")
        elif needed:
            raise UsageError(f"{what}: {name} is missing")
    return kind(**values)


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return each field's type, and whether it has to be given."""
    assert dataclasses.is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING) for field in dataclasses.fields(kind)
    }


def _value(hint: Any, data: object, what: str) -> Any:
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
        value = _value(hint, data, what)
        size = value if isinstance(value, int | float) else len(value)
        if not bounds.least <= size <= bounds.largest:
            raise UsageError(f"{what}: {_shown(data)} is not within {bounds.least:g} and {bounds.largest:g}")
        if bounds.absolute and not value.startswith("/"):
            raise UsageError(f"{what}: {_shown(data)} is no absolute path")
        return value
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), data, what)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read(hint, data, what=what)
    value = _SCALARS[hint](data)
    if value is None:
        raise UsageError(f"{what}: {_shown(data)} is no {_WORDS[hint]}")
    return value


def _tuple(hints: tuple[Any, ...], data: object, what: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise UsageError(f"{what}: {_shown(data)} is no list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(data)
    if len(data) != len(hints):
        raise UsageError(f"{what}: {len(data)} entries, not {len(hints)}")
    pairs = zip(hints, data, strict=True)
    return tuple(_value(hint, each, f"{what}[{number}]") for number, (hint, each) in enumerate(pairs))


def _text(data: object) -> str | None:
    if not isinstance(data, str) or "\0" in data or len(data) > LONGEST:
        return None
    try:
        os.fsencode(data)
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return data


def _whole(data: object) -> int | None:
    return data if type(data) is int and abs(data) <= LARGEST else None


def _number(data: object) -> float | None:
    if type(data) is int and abs(data) <= LARGEST:
        return float(data)
    return data if type(data) is float and math.isfinite(data) else None


def _flag(data: object) -> bool | None:
    return data if type(data) is bool else None


def _bytes(data: object) -> bytes | None:
    if not isinstance(data, str):
        return None
    try:
        return bytes.fromhex(data)
    except ValueError:
        return None


_SCALARS = {str: _text, int: _whole, float: _number, bool: _flag, bytes: _bytes}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", bytes: "hexadecimal text"}


def _shown(data: object) -> str:
    """Return something of unknown size in few characters; nothing is written out that could be deep or endless."""
    match data:
        case str():
            return ascii(data[:40])
        case bool() | float() | types.NoneType():
            return f"`{data}`"
        case int():
            return f"`{data}`" if abs(data) <= LARGEST else "a number of more than 64 bits"
        case list():
            return "a list"
        case _:
            return "an object"
