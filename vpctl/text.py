"""Text from elsewhere, made fit to be shown: a guest, a QEMU or a file may say what a terminal takes as commands."""

from __future__ import annotations

import re

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 but tab and line feed; what changes the direction of writing, or ends a line unseen; half characters."""


def printable(text: str) -> str:
    r"""Return a text with every character that a terminal acts upon as an escape, such as `\x1b`."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))
