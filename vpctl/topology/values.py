"""How names, sizes and durations are spelled in a file."""

from __future__ import annotations

import re
from fractions import Fraction

from vpctl import rundir
from vpctl.topology.problems import quoted

VERSION = 1
"""The version of the file format that this code reads."""
NAME = rundir.NAME
LINK_NAME = "[a-z][a-z0-9-]{0,14}"
"""An interface has 15 characters at most (IFNAMSIZ), and carries the link's name."""
RESERVED_LINK_NAMES = ("lo", "eth0", "mgmt", "all", "default")
RESERVED_VM_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")
"""What `/etc/hosts` of every guest has already."""
VM_NAME = "[a-z]([a-z0-9-]{0,29}[a-z0-9])?"
SIZE = r"[0-9]{1,18}|[0-9]{1,9}(\.[0-9]{1,9})?[KMG]"
DURATION = r"[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h)"
HEARTBEAT = (
    r"0{0,8}([3-9]|[1-9][0-9]{1,8})(\.[0-9]{1,9})?s"
    r"|0{0,8}([3-9][0-9]{3}|[1-9][0-9]{4,8})(\.[0-9]{1,9})?ms"
    r"|[0-9]{1,9}(\.[0-9]{1,9})?[mh]"
)
"""Durations from `SHORTEST_HEARTBEAT` on, as far as a pattern can tell: not those below it in minutes or hours."""

SMALLEST_MEMORY = 96 << 20
LARGEST_MEMORY = 1 << 40
"""A VM's physical address space under TCG."""
SHORTEST = Fraction(1, 1000)
LONGEST = 24 * 3600
SHORTEST_HEARTBEAT = 3
"""Seconds: the guest beats once in each, and one beat that is lost must not look like a hang."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}


class WrongValueError(ValueError):
    """A value that cannot be; the message goes on from "…: ", the hint says how it is spelled."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def version(value: object) -> int:
    """Return the version of the file's format."""
    if not isinstance(value, int) or isinstance(value, bool) or value != VERSION:
        what = f"the string {quoted(value)}" if isinstance(value, str) else quoted(value)
        hint = f"write `version: {VERSION}`" + (", without quotes" if value == str(VERSION) else "")
        raise WrongValueError(f"{what} is not a version that is known", hint)
    return int(value)


def name(value: object) -> str:
    """Return a topology's name."""
    return _matching(value, NAME, longest=31)


def vm_name(value: object) -> str:
    """Return a VM's name, which is a host's name in every guest that has a link to it."""
    text = _matching(value, NAME, longest=31)
    if text in RESERVED_VM_NAMES:
        raise WrongValueError(f"{quoted(text)} is every guest itself", "choose another name, for instance `vm1`")
    if text.endswith("-"):
        raise WrongValueError(
            f"{quoted(text)} is not the name of a host: those end in a letter or digit (RFC 1123)",
            f"did you mean {quoted(text.rstrip('-'))}?",
        )
    return text


def link_name(value: object) -> str:
    """Return a link's name, which is an interface's name too."""
    text = _matching(value, LINK_NAME, longest=15)
    if text in RESERVED_LINK_NAMES:
        raise WrongValueError(f"{quoted(text)} is taken in every guest", "choose another name, for instance `lan0`")
    return text


def as_name(text: str, *, longest: int = 31) -> str | None:
    """Return the nearest thing to `text` that is a name, if there is something like it."""
    candidate = re.sub("[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:longest].rstrip("-")
    return candidate or None


def size(value: object) -> int:
    """Return a size in bytes: a number, or a string with K, M or G (of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        bytes_ = Fraction(value)
    elif isinstance(value, str) and re.fullmatch(SIZE, value):
        digits = value.rstrip("KMG")
        bytes_ = Fraction(digits) * _UNITS[value[len(digits) :]]
    else:
        raise WrongValueError(f"{quoted(value)} is not a size", _size_hint(value))
    if bytes_.denominator != 1 or bytes_ < 1:
        raise WrongValueError(f"{quoted(value)} is not a whole number of bytes, at least one")
    return int(bytes_)


def memory(value: object) -> int:
    """Return a VM's memory in bytes."""
    bytes_ = size(value)
    if bytes_ < SMALLEST_MEMORY:
        hint = f"did you mean `{bytes_}M`?" if 64 <= bytes_ <= 1 << 20 else "at least `96M`"
        raise WrongValueError(f"{quoted(value)} is too small for a guest to boot in", hint)
    if bytes_ > LARGEST_MEMORY:
        raise WrongValueError(f"{quoted(value)} is more than a VM can address", "at most `1024G`")
    if bytes_ % (1 << 20):
        raise WrongValueError(f"{quoted(value)} is not a multiple of 1 MiB", f"for instance `{bytes_ >> 20}M`")
    return bytes_


def duration(value: object) -> float:
    """Return a duration in seconds: a string with ms, s, m or h, from 1 ms to 24 h."""
    if not isinstance(value, str) or not re.fullmatch(DURATION, value):
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
        hint = f"did you mean `{number:g}s`?" if 0.001 <= number < 86400 else "for instance `10s`, `500ms` or `2m`"
        raise WrongValueError(f"{quoted(value)} is not a duration", hint)
    digits = value.rstrip("msh")
    seconds = Fraction(digits) * _SECONDS[value[len(digits) :]]
    if not SHORTEST <= seconds <= LONGEST:
        raise WrongValueError(f"{quoted(value)} is out of range", "from `1ms` to `24h`")
    return float(seconds)


def heartbeat(value: object) -> float:
    """Return the limit of a heartbeat's silence in seconds."""
    seconds = duration(value)
    if seconds < SHORTEST_HEARTBEAT:
        message = f"{quoted(value)} is too short for a guest that beats once a second"
        raise WrongValueError(message, f"at least `{SHORTEST_HEARTBEAT}s`")
    return seconds


def _matching(value: object, pattern: str, *, longest: int) -> str:
    if not isinstance(value, str):
        raise WrongValueError(f"{quoted(value)} is not a string", "a name that reads as a number needs quotes")
    if not re.fullmatch(pattern, value):
        proposed = as_name(value, longest=longest)
        question = f"did you mean {quoted(proposed)}? " if proposed is not None and len(value) < 80 else ""
        rule = f"lower-case letters, digits and `-`, a letter first, at most {longest}"
        raise WrongValueError(f"{quoted(value)} is not a name", question + rule)
    return value


def _is_size(text: str) -> bool:
    try:
        size(text)
    except WrongValueError:
        return False
    return True


def _size_hint(value: object) -> str:
    if isinstance(value, str):
        spelled = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmg])(?:i?b)?", value, re.IGNORECASE)
        proposed = f"{spelled[1]}{spelled[2].upper()}" if spelled is not None else ""
        if proposed == value:
            return "at most nine digits before K, M or G, and nine behind the point"
        if _is_size(proposed):
            return f"did you mean `{proposed}`? K, M and G are powers of 1024"
    return "for instance `256M` or `1.5G`"
