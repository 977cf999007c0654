"""Text in columns that fit a width: what `bench` and `compare` show, the same on a terminal and in a pipe.

rich's own tables fold a cell that is too long; here its middle is left out, for a figure must stay on its line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpctl.cli.view.figures import ASCII, Marks, bar, direction, shorten

if TYPE_CHECKING:
    from rich.text import Text

GAP = "  "

NARROWEST = 60
"""Columns below which lines become too long rather than unreadable."""

STYLES = {"better": "green", "unclear": "yellow", "worse": "red", "missing": "red", "failed": "red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """From which VM to which, as a cell."""

    source: str
    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A bar as a cell: its part of the whole width, None for no bar at all."""

    fraction: float | None


Cell = str | Direction | Bar


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column: its heading, and how narrow it may become."""

    title: str
    least: int | None = None
    """None: as wide as what is in it, always."""
    right: bool = False
    most: int | None = None
    """Of bars, which have no width of their own: the width where there is room."""


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, width: int, marks: Marks) -> list[str]:
    """Return the heading and the rows as lines of so many columns at most; empty columns are left out.

    Bars become narrower first, then the widest column that may. Where all have their least, lines are too long.
    """
    shown = [place for place in range(len(columns)) if any(_natural(row[place], marks) for row in rows)]
    kept = [columns[place] for place in shown]
    cells = [[row[place] for place in shown] for row in rows]
    widths = [_column_width(column, [row[place] for row in cells], marks) for place, column in enumerate(kept)]
    spare = width - len(GAP) * (len(kept) - 1)
    while sum(widths) > spare:
        able = [place for place, column in enumerate(kept) if widths[place] > (column.least or widths[place])]
        if not able:
            break
        widths[max(able, key=lambda place: (kept[place].most is not None, widths[place]))] -= 1
    lines = [[column.title[:size] for column, size in zip(kept, widths, strict=True)]]
    lines += [[_fitted(cell, size, marks) for cell, size in zip(row, widths, strict=True)] for row in cells]
    return [_line(kept, widths, line) for line in lines]


def _natural(cell: Cell, marks: Marks) -> int:
    """Return how wide a cell would like to be; a bar takes what its column gives it."""
    if isinstance(cell, Direction):
        return len(cell.source) + len(marks.arrow) + len(cell.target)
    if isinstance(cell, Bar):
        return 1 if cell.fraction is not None else 0
    return len(cell)


def _column_width(column: Column, cells: Sequence[Cell], marks: Marks) -> int:
    if any(isinstance(cell, Bar) for cell in cells):
        return column.most or 1
    return max(len(column.title), *(_natural(cell, marks) for cell in cells))


def _fitted(cell: Cell, width: int, marks: Marks) -> str:
    if isinstance(cell, Direction):
        return direction(cell.source, cell.target, width, marks)
    if isinstance(cell, Bar):
        return bar(cell.fraction, width, marks) if cell.fraction is not None else ""
    return shorten(cell, width, marks)


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    placed = [
        cell.rjust(size) if column.right else cell.ljust(size)
        for column, size, cell in zip(columns, widths, cells, strict=True)
    ]
    return GAP.join(placed).rstrip()


def paragraph(text: str, *, width: int, indent: str = "  ") -> list[str]:
    """Return a sentence in lines of so many columns, the later ones indented."""
    return textwrap.wrap(" ".join(text.split()), width, subsequent_indent=indent, break_on_hyphens=False)


def styled(lines: Sequence[str], marks: Marks, *, heading: str) -> Text:
    """Return lines as rich text: headings (what begins so, a regular expression) bold, verdicts in their colour."""
    from rich.text import Text

    if marks is ASCII:
        # Messages of others may hold anything, and a log that cannot be written is worse than a question mark.
        lines = [line.encode("ascii", "replace").decode() for line in lines]
    text = Text("\n".join(lines), no_wrap=True)
    text.highlight_regex(rf"(?m)^ *{heading}.*$", "bold")
    for word, style in STYLES.items():
        # A cell of its own, or what a line begins with; not a word in a sentence.
        text.highlight_regex(rf"(?m)(?:^|(?<={GAP})){word}(?=:|{GAP}|$)", style)
    return text
