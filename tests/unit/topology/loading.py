"""Load texts with link kinds that exist only here: the loader must work with whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vpctl.errors import TopologyError
from vpctl.topology.load import load
from vpctl.topology.model import Key, KindRules, LinkSpec, Topology

HEAD = "version: 1\nname: pair\n"
VMS = "vms: {vm1: , vm2: }\n"


def fits_into_memory(link: LinkSpec, topology: Topology) -> str | None:
    """A kind's own rule: the shared memory is not larger than its VMs' memory."""
    smallest = min(topology.vm(end.vm).memory for end in link.endpoints)
    return f"`size` is more than {smallest} bytes" if link.options["size"] > smallest else None


def power_of_two(size: int) -> str | None:
    return None if size & (size - 1) == 0 else f"{size} is not a power of two"


KINDS = {
    "wire": KindRules(name="wire", policies=("replug",)),
    "shared": KindRules(
        name="shared",
        policies=("relink", "replug"),
        keys={
            "size": Key(kind="size", default="4M", help="size of the shared memory", check=power_of_two),
            "vectors": Key(kind="integer", default=2, help="interrupt vectors"),
            "label": Key(kind="string", default="", help="what it is for"),
            "polling": Key(kind="boolean", default=False, help="poll rather than wait"),
        },
        max_queues=4,
        min_mtu=100,
        max_mtu=9000,
        check=fits_into_memory,
    ),
}


def loaded(text: str | bytes, file: str = "dir/pair.yaml", **environ: str) -> Topology:
    """Load a text."""
    return load(text, file=file, kinds=KINDS, environ=environ, base=Path("/base"))


def links(text: str, vms: str = VMS) -> str:
    """Return a file with these links, in flow notation, one per line: they begin on line 5, column 3."""
    return HEAD + vms + "links:\n" + "".join(f"  {line}\n" for line in text.splitlines())


def problems(text: str | bytes, **environ: str) -> list[str]:
    """Load a text that is wrong; return its problems as `line:column message (hint)`."""
    with pytest.raises(TopologyError) as caught:
        loaded(text, **environ)
    return lines(caught.value)


def lines(error: TopologyError) -> list[str]:
    """Put problems on a line each."""
    hints: Mapping[bool, str] = {True: "", False: " ({})"}
    return [
        f"{problem.line}:{problem.column} {problem.message}{hints[problem.hint is None].format(problem.hint)}"
        for problem in error.problems
    ]
