"""The topology file: read, checked against the link kinds, and compared with what runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from vpctl import image as guest_images
from vpctl.errors import UsageError
from vpctl.links import LINK_KINDS
from vpctl.topology.load import load
from vpctl.topology.model import KindRules, Topology, topology_to_json
from vpctl.topology.problems import nearest, quoted
from vpctl.wait import standstill

FILE_LIMIT = 8 << 20
"""Bytes of a topology file that are read."""

NO_FILE = "give the path of a topology file; docs/topology.md tells how one is written, examples/ has some"


def kind_rules() -> Mapping[str, KindRules]:
    """Return what the loader must know of the link kinds."""
    return {name: kind.rules for name, kind in LINK_KINDS.items()}


def load_file(file: Path, environ: Mapping[str, str]) -> Topology:
    """Load a topology file; TopologyError with everything that is wrong, UsageError if it cannot be read."""
    try:
        # It may be a pipe or a terminal, which has nothing yet, or a device that never ends.
        with standstill.possible(), file.open("rb") as stream:
            content = stream.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise UsageError(f"{file} is too large to be a topology", hint=NO_FILE)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", hint=_other_file(file)) from error
    return load(
        content,
        file=str(file),
        kinds=kind_rules(),
        environ=environ,
        base=file.absolute().parent,
        images=guest_images.recipe_names(guest_images.sources_directory()),
    )


def _other_file(file: Path) -> str:
    """Return what to do about a topology file that cannot be read: perhaps its neighbour is meant."""
    directory = file if file.is_dir() else file.parent
    known = sorted(path.name for path in directory.glob("*.yaml"))
    meant = nearest(file.name, known) or (known[0] if len(known) == 1 else None)
    return f"did you mean {quoted(directory / meant)}?" if meant is not None else NO_FILE


def fingerprint(topology: Topology) -> str:
    """Return a key of what a topology says: `up` of a running one compares it."""
    return hashlib.sha256(json.dumps(topology_to_json(topology), sort_keys=True).encode()).hexdigest()
