"""What the verbs that go into a guest share: finding its address without waiting for anybody."""

from __future__ import annotations

from typing import Any

from vpctl.cli import choose
from vpctl.cli.verb import Context
from vpctl.errors import NotFoundError, VpctlError
from vpctl.guest.ssh import Address, GuestSshError
from vpctl.rundir import RunDir, read_json


def vm_entry(rundir: RunDir, vm: str) -> dict[str, Any]:
    """Return a VM's entry of the written-down status; works while the supervisor is away, too."""
    record: Any = read_json(rundir.status)
    for entry in record["vms"] if isinstance(record, dict) else ():
        if entry["name"] == vm:
            found: dict[str, Any] = entry
            return found
    raise NotFoundError(f"VM `{vm}` has no status yet", hint="vpctl status")


def address(context: Context, vm: str) -> Address:
    """Return how to log in to a VM; GuestSshError (255) if it is in no state for that."""
    try:
        entry = vm_entry(choose.vm(context, vm), vm)
    except VpctlError as error:
        raise GuestSshError(error.message, hint=error.hint) from error
    if not entry["ssh"]["port"] or entry["state"] in ("crashed", "stopped", "failed"):
        raise GuestSshError(f"VM `{vm}` is {entry['state']}", hint=f"vpctl recover {vm}")
    if entry.get("paused"):  # a login would wait for a guest that stands still
        raise GuestSshError(f"VM `{vm}` is paused", hint=f"vpctl qmp {vm} cont")
    return Address.from_status(entry)
