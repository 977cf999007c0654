"""Connections that one QEMU accepts from another: when it can, and that nobody waits for a peer that reads no more.

A listening `stream` of QEMU 7.2 binds its socket in a thread of its own, after `netdev_add` has answered; one that
connects before that stays unconnected for good.

The listening end of QEMU's `stream` netdev sends by a socket that blocks (seen in 7.2), the connecting end does not.
When the other guest hangs, or its QEMU is stopped, what is sent to it fills the socket, and then QEMU's main loop
waits, with the guest, its other links and QMP, until that peer is fenced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpctl import wait
from vpctl.broker.client import BrokerClient
from vpctl.errors import HostError, HotplugError, ReadyTimeoutError
from vpctl.links.kind import PlugStep
from vpctl.process import listens_at
from vpctl.process_record import process_name
from vpctl.supervisor.vm.machine import Machine

LISTENING_SECONDS = 5.0
"""For a QEMU to listen at the socket of a netdev that it has; on a busy host that takes some tens of milliseconds."""

ACCEPTED_SECONDS = 2.0
"""For a QEMU to accept a connection that its peer has made already."""


async def until_listening(steps: Sequence[PlugStep]) -> None:
    """Wait until the ends of a link that accept others' connections do; HotplugError if one does not."""
    for step in steps:
        if (path := step.device.accepts) is None:
            continue

        async def listening(path: str = path) -> bool | None:
            return listens_at(path) or None

        try:
            await wait.until(listening, timeout=LISTENING_SECONDS, what=f"{step.vm}: a socket at {path}", every=0.005)
        except ReadyTimeoutError as error:
            raise HotplugError(error.message, hint=f"vpctl logs {step.vm}") from error


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
