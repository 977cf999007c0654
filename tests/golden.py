"""Compare with a file that a person has read; `UPDATE_GOLDEN=1` writes it anew, for the next person to read."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(__file__).parent / "data"


def assert_golden(name: str, text: str) -> None:
    """Assert that a text is what `tests/data/<name>` holds."""
    path = DATA / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path}; if it is meant to, UPDATE_GOLDEN=1"
