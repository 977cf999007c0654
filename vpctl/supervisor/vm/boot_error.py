"""The error of a boot that failed, with all that its reader wants to see of it."""

from __future__ import annotations

import re
from pathlib import Path

from vpctl.errors import HostError, QmpError, ReadyTimeoutError, VpctlError, errors_by_code
from vpctl.log_files import tail

LAST_LINES = 15
"""How much of a log an error shows."""

MOST_BYTES = 16384
"""How much of its end is looked at for that."""


def boot_error(error: VpctlError, *, vm: str, stage: str | None, logs: Path) -> VpctlError:
    """Return an error with everything that one wants to see: stage, cause, QEMU's output, serial lines, its command.

    `stage` None: it had booted already.
    """
    parts = []
    for title, path in (("QEMU said", logs / "qemu.log"), ("last serial lines", logs / "serial.log")):
        if lines := last_lines(path, LAST_LINES):
            parts.append(f"{title}:\n" + "\n".join(f"  {line}" for line in lines))
    parts.append(f"its command line is in {logs / 'argv'}")
    # Who has to act decides the class: the host's and QMP's errors stay what they are.
    kind = errors_by_code()[error.code] if isinstance(error, HostError | QmpError) else ReadyTimeoutError
    message = f"`{vm}`: boot stage `{stage}`: {error.message}" if stage else f"`{vm}`: {error.message}"
    return kind(message, hint=error.hint or f"logs are in {logs}", details="\n".join(parts))


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, without control characters; an absent file has none."""
    text = tail(path, MOST_BYTES).decode(errors="replace")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]", "", line).rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-count:]
