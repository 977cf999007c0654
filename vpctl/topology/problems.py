"""Problems of one file: collected, put into words, sorted by place."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from vpctl.errors import Problem, TopologyError

Path = tuple[str | int, ...]
"""Where something stands in a file: mapping keys and list positions from the root."""

MOST_PROBLEMS = 200
"""A file with more is no topology; the rest would only bury the first."""
MOST_NAMES = 12
MOST_CANDIDATES = 500
LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in the file; both count from 1."""

    line: int
    column: int


class Problems:
    """Collects what is wrong with one file, and remembers which parts of it are not to be built upon."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[Problem] = []
        self._paths: set[Path] = set()
        self._prefixes: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, mark: Mark, message: str, hint: str | None = None) -> None:
        """Note a problem; `path` counts as broken from now on."""
        self._paths.add(path)
        self._prefixes.update(path[:length] for length in range(len(path) + 1))
        if len(self._found) < MOST_PROBLEMS:
            problem = Problem(message=message, file=self.file, line=mark.line, column=mark.column, hint=hint)
            self._found.append(problem)

    @property
    def full(self) -> bool:
        """Whether no further problem would be shown."""
        return len(self._found) >= MOST_PROBLEMS

    def breaks(self, path: Path) -> bool:
        """Whether a problem was found at `path` or at a part of it that holds it."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def within(self, path: Path) -> bool:
        """Whether a problem was found at `path` or below."""
        return path in self._prefixes

    def error(self) -> TopologyError:
        """Return everything found, in the order of the file."""
        found = sorted(dict.fromkeys(self._found), key=lambda problem: (problem.line, problem.column))
        if self.full:
            last = found[-1]
            message = f"no more than {MOST_PROBLEMS} problems are looked for: there may be others"
            found[-1] = replace(last, message=message, hint="mend these first")
        return TopologyError(found)


def quoted(value: object) -> str:
    """Put a value from a file into backticks: one line, printable, not too long."""
    text = value if isinstance(value, str) else in_yaml(value)
    if len(text) > LONGEST_NAME:
        text = text[:LONGEST_NAME] + "…"
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"`{printable}`"


def in_yaml(value: object) -> str:
    """Spell a plain value as YAML does."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "text", value))


def listed(names: Iterable[str]) -> str:
    """Join names for a sentence; a long list is cut."""
    every = list(names)
    shown = ", ".join(quoted(name) for name in every[:MOST_NAMES])
    return f"{shown} and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else shown


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, if any looks like it."""
    candidates = [candidate for _, candidate in zip(range(MOST_CANDIDATES), known, strict=False)]
    folded = {candidate.casefold().replace("_", "-"): candidate for candidate in candidates}
    wanted = name[: LONGEST_NAME + 1].casefold().replace("_", "-")
    found = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def unknown(name: str, known: Collection[str], *, plural: str) -> str:
    """Return the hint for a name that nobody knows: the nearest one, and all there are."""
    if not known:
        return f"there are no {plural}"
    near = nearest(name, known)
    question = f"did you mean {quoted(near)}? " if near is not None else ""
    return f"{question}{plural} are {listed(known)}" if len(known) > 1 else f"{question}known is {listed(known)}"
