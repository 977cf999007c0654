"""What one hot-plugged device consists of, and the commands that add and remove it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Command = tuple[str, Mapping[str, Any]]
"""A QMP command and its arguments."""

_REMOVALS = {
    "device_add": "device_del",
    "netdev_add": "netdev_del",
    "chardev-add": "chardev-remove",
    "object-add": "object-del",
}


def removal_of(command: str) -> str | None:
    """Return the name of the command that takes back an adding one; None for a command that adds nothing."""
    return _REMOVALS.get(command)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceIds:
    """The names under which QEMU knows a device's parts; enough to remove it."""

    device: str
    netdev: str | None = None
    chardev: str | None = None
    objects: tuple[str, ...] = ()

    def backend_commands(self) -> list[Command]:
        """Return what removes the parts behind the device, in order; only once the device itself is gone.

        QEMU 7.2 aborts at the next reset of a vhost-user NIC that has lost its netdev.
        """
        commands: list[Command] = []
        if self.netdev is not None:
            commands.append(("netdev_del", {"id": self.netdev}))
        if self.chardev is not None:
            commands.append(("chardev-remove", {"id": self.chardev}))
        return commands + [("object-del", {"id": name}) for name in reversed(self.objects)]

    def commands(self) -> list[Command]:
        """Return the whole removal, in order; between the first and the second lies DEVICE_DELETED."""
        return [("device_del", {"id": self.device}), *self.backend_commands()]


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePlan:
    """Everything one hot-plugged device consists of: the arguments of each command, every one with its `id`."""

    device: Mapping[str, Any]
    netdev: Mapping[str, Any] | None = None
    chardev: Mapping[str, Any] | None = None
    objects: tuple[Mapping[str, Any], ...] = ()
    netdev_event: str | None = None
    """The event, with our `netdev-id`, that proves the netdev's connection: `NETDEV_STREAM_CONNECTED` at the client's
    end. QEMU answers `netdev_add` with `{}` even if nobody listens, and a stream of 7.2 never tries again."""
    netdev_down: bool = False
    """Whether the netdev's link is set down before the device is there; its back-end sets it up when it connects.

    A listening `stream` of QEMU 7.2 sets it down itself, but only once its socket is bound, in a thread of its own:
    a guest that sends before that, on a busy host, or where the socket cannot be bound, meets no channel (SIGSEGV).
    """
    accepts: str | None = None
    """Path of the unix socket at which the netdev accepts the other end's, by a socket that blocks: see
    `supervisor.hotplug.stream`."""
    sockets: tuple[str, ...] = ()
    """Paths of the unix sockets that QEMU binds for it and never removes, and of those that a broker does, which may
    be killed: whoever unplugs it removes them."""

    def commands(self) -> list[Command]:
        """Return the commands that add it, in order."""
        commands: list[Command] = [("object-add", arguments) for arguments in self.objects]
        if self.chardev is not None:
            commands.append(("chardev-add", self.chardev))
        if self.netdev is not None:
            commands.append(("netdev_add", self.netdev))
            if self.netdev_down:
                commands.append(("set_link", {"name": self.netdev["id"], "up": False}))
        return [*commands, ("device_add", self.device)]

    def ids(self) -> DeviceIds:
        """Return what removes it."""
        return DeviceIds(
            device=self.device["id"],
            netdev=None if self.netdev is None else self.netdev["id"],
            chardev=None if self.chardev is None else self.chardev["id"],
            objects=tuple(arguments["id"] for arguments in self.objects),
        )
