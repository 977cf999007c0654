"""Traffic over links from guest to guest while things happen to them, and what `status` tells of both."""

from __future__ import annotations

import json
from typing import Any

from tests.support import PATIENCE
from tests.vm.commandline import Command, Vpctl, until

RATE = round(100 / PATIENCE)
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def vms(status: dict[str, Any]) -> dict[str, Any]:
    return {vm["name"]: vm for vm in status["vms"]}


def links(status: dict[str, Any]) -> dict[str, Any]:
    return {link["name"]: link for link in status["links"]}


def other_end(status: dict[str, Any], link: str, vm: str) -> dict[str, Any]:
    """Return the endpoint of a link that is not this VM's."""
    found: dict[str, Any] = next(end for end in links(status)[link]["endpoints"] if end["vm"] != vm)
    return found


class Stream:
    """Numbered datagrams from one guest to an address; the sender goes on while its link is away.

    A hundred a second, and fewer where PATIENCE is asked for: an emulated KVM's guest that had to take as many would
    have no time for its heartbeat.
    """

    def __init__(self, vpctl: Vpctl, source: str, link: str, address: str) -> None:
        self.vpctl, self.source, self.link = vpctl, source, link
        self.address = address.partition("/")[0]
        self.sender: Command = vpctl.start(
            "exec", source, "--", f"vpctl-agent stream-send {link} {self.address} --rate {RATE}"
        )

    def received(self, target: str, *, ms: int = 800) -> dict[str, Any]:
        """Listen at the other end for a moment; return what the agent there counted."""
        data: dict[str, Any] = json.loads(
            self.vpctl.guest(target, f"vpctl-agent stream-recv {self.link} --duration-ms {ms}")
        )
        return data

    def comes(self, target: str) -> dict[str, Any]:
        """Return what the other end receives as soon as something comes."""

        def look() -> dict[str, Any] | None:
            got = self.received(target, ms=500)
            return got if got["received"] else None

        return until(look, f"packets of {self.link} at {target}", limit=60)

    def flows(self, target: str, *, ms: int = 800, more_than: int = 20) -> dict[str, Any]:
        """Wait until something comes, then return what the other end receives in a moment, which is to be more."""
        self.comes(target)
        got = self.received(target, ms=ms)
        assert got["received"] > more_than / PATIENCE, got
        return got

    def stop(self) -> dict[str, Any]:
        """End the sender; return what it counted."""
        self.vpctl.guest(self.source, "pkill -f stream-send")
        data: dict[str, Any] = json.loads(self.sender.wait().stdout)
        return data
