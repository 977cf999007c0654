"""What is shown, as plain text."""

from __future__ import annotations

import io
from typing import Any

from vpctl.cli.view import render


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


STEP = {"name": "plug", "target": "vm2/lan0.g2", "at_ms": 1.0, "ms": 61.4, "ok": True}


def shown(table: Any, stream: io.StringIO | None = None) -> str:
    stream = stream if stream is not None else io.StringIO()
    render.console(stream).print(table)
    return stream.getvalue()


STATUS: dict[str, Any] = {
    "vms": [
        {
            **{"name": "vm1", "state": "ready", "pid": 12, "accelerator": "tcg", "qemu_version": "7.2.22"},
            **{"generation": 2, "ssh": {"host": "127.0.0.1", "port": 40022}},
        },
        {
            **{"name": "vm2", "state": "crashed", "pid": None, "accelerator": "tcg", "qemu_version": "7.2.22"},
            **{"generation": 1, "ssh": {"host": "127.0.0.1", "port": None}},
        },
    ],
    "links": [
        {
            **{"name": "lan0", "kind": "stream", "state": "down", "generation": 1},
            "endpoints": [{"vm": "vm1", "address": "10.0.0.1/30"}, {"vm": "vm2", "address": "10.0.0.2/30"}],
        }
    ],
}
