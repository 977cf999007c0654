"""What a command works with, whatever its options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpctl.log import Log
    from vpctl.process import Waiting
    from vpctl.rundir import Directories


@dataclass(frozen=True, kw_only=True)
class ClientContext:
    """Where a command finds topologies, and where it says what it does."""

    log: Log
    directories: Directories
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    warm: Waiting | None = None
    """A supervisor for `up`, started before anything else; see `python -m vpctl.supervisor`."""

    def waiting(self, name: str) -> Callable[[str], None]:
        """Return what tells the user whom a command waits for that starts or stops a topology."""
        return lambda holder: self.log.info(f"{name}: waiting for {holder}")
