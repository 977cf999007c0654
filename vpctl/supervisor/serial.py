"""What the serial log of a QEMU tells of its guest's boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SSH_MARK = b"vpctl: ssh"
"""What the built image's init writes when its ssh server listens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SerialLog:
    """One boot of a guest in the log of its QEMU, which has its earlier boots before that."""

    path: Path
    begins: int = 0
    """Where this boot begins."""

    def size(self) -> int:
        """Return how much QEMU has written by now, of all boots."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    async def speaks(self) -> bool | None:
        """Whether the guest has said anything in this boot; None if not yet, as `wait.until` wants it."""
        return self.size() > self.begins or None

    def says_ssh(self) -> bool:
        """Whether it has said in this boot that its ssh server listens."""
        with self.path.open("rb") as stream:
            stream.seek(self.begins)
            return SSH_MARK in stream.read()
