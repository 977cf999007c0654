"""What a QEMU costs the host: CPU time of its process, and of what the host's kernel runs for it."""

from __future__ import annotations

import os
from pathlib import Path


def process_cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, all threads; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def vhost_threads(pid: int) -> list[int]:
    """Return the kernel threads that vhost-net runs for a process; up to Linux 6.3 they are no threads of its own."""
    wanted = f"vhost-{pid}"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if (entry / "comm").read_text(encoding="utf-8", errors="replace").strip() == wanted:
                found.append(int(entry.name))
        except OSError:  # gone meanwhile, or nobody's business
            continue
    return found
