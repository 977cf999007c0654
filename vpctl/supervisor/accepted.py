"""Connections that one QEMU has accepted from another: nobody may have to wait for a peer that reads no more.

The listening end of QEMU's `stream` netdev sends by a socket that blocks (seen in 7.2), the connecting end does not.
When the other guest hangs, or its QEMU is stopped, what is sent to it fills the socket, and then QEMU's main loop
waits, with the guest, its other links and QMP, until that peer is fenced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpctl import wait
from vpctl.broker.client import BrokerClient
from vpctl.broker.protocol import process_name
from vpctl.errors import HostError, ReadyTimeoutError
from vpctl.links.base import PlugStep
from vpctl.supervisor.machine import Machine

ACCEPTED_SECONDS = 2.0
"""For a QEMU to accept a connection that its peer has made already."""


async def stop_blocking(broker: BrokerClient, steps: Sequence[PlugStep], machines: Mapping[str, Machine]) -> None:
    """See to it that no end of a link that was just plugged waits for the other; a warning if the host forbids it."""
    for step in steps:
        if (path := step.device.accepts) is None:
            continue
        name = process_name(step.vm)

        async def accepted(name: str = name, path: str = path) -> int | None:
            return await broker.stop_blocking(name=name, path=path) or None

        try:
            await wait.until(accepted, timeout=ACCEPTED_SECONDS, what=f"a connection at {path}", every=0.01)
        except (HostError, ReadyTimeoutError) as error:
            attributes = {
                "warning": "blocking-socket",
                "device": step.device.device["id"],
                "reason": error.message,
                "hint": "its guest stands still while the other one is stopped or hangs, until that is recovered",
            }
            machines[step.vm].warn(attributes)
