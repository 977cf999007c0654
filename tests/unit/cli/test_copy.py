"""Which side of a copy is a guest's."""

from __future__ import annotations

import pytest

from tests.unit.cli.running import context
from vpctl.cli import copy
from vpctl.errors import UsageError
from vpctl.rundir import Directories


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("vm1:/tmp/x", ("vm1", "/tmp/x")),
        ("vm1:", ("vm1", "")),
        ("vm1:a:b", ("vm1", "a:b")),
        ("file", None),
        ("./a:b", None),
        ("/tmp/a:b", None),
        (":x", None),
        ("", None),
    ],
)
def test_a_path_with_a_vm_before_its_colon_is_the_guests(path: str, parts: tuple[str, str] | None) -> None:
    assert copy.split(path) == parts


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("vm1:a", "vm2:b")])
async def test_one_side_of_a_copy_is_a_guests(directories: Directories, source: str, target: str) -> None:
    with pytest.raises(UsageError, match="one of the two paths must be VM:PATH"):
        await copy.copy(context(directories), source, target)
