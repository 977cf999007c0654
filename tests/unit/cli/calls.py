"""Calls of the command line within this process."""

from __future__ import annotations

import pytest

from vpctl.__main__ import main


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code
