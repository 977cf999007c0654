"""What the serial log of a QEMU tells of its guest's boot."""

from __future__ import annotations

from pathlib import Path

from vpctl.log_files import LOG_BYTES, limit

SSH_MARK = b"vpctl: ssh"
"""What the built image's init writes when its ssh server listens."""

LOOK_BYTES = 4 << 20
"""How much of the log is read at one look; the next look goes on there."""


class SerialLog:
    """The log of one QEMU's serial console, and what the present boot of its guest has said in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begins = 0
        self._place = 0
        self._spoke = False
        self._told_ssh = False

    def size(self) -> int:
        """Return the log's size in bytes; QEMU may have written more, of which the oldest was put aside."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def begin_boot(self) -> None:
        """Take in that the guest boots again: what it has said up to now is another boot's."""
        self._begins = self._place = self.size()
        self._spoke = self._told_ssh = False

    async def speaks(self) -> bool | None:
        """Whether the guest has said anything in this boot; None if not yet, as `wait.until` wants it."""
        self._spoke = self._spoke or self.size() > self._begins
        return self._spoke or None

    def says_ssh(self) -> bool:
        """Whether it has said in this boot that its ssh server listens; reads what was added since the last look."""
        if not self._told_ssh:
            with self.path.open("rb") as stream:
                stream.seek(self._place)
                text = stream.read(LOOK_BYTES)
            self._told_ssh = SSH_MARK in text
            self._place += max(0, len(text) - len(SSH_MARK) + 1)  # the mark may have been written in part
        return self._told_ssh

    def limit(self) -> None:
        """Put what is in the log aside if it has grown too large; what this boot has said is remembered."""
        if (size := self.size()) <= LOG_BYTES:
            return
        self._spoke = self._spoke or size > self._begins
        self.says_ssh()
        if limit(self.path):
            self._begins = self._place = 0
