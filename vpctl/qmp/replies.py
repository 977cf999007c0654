"""What QEMU's refusals mean. `error_class` is nearly always GenericError, so the text is what tells; matched loosely.

The texts are those of QEMU 7.2 (provoked, see docs/hotplug.md) and of the sources up to 10.2.
"""

from __future__ import annotations

import re
from enum import Enum


class Meaning(Enum):
    """What to do about a refusal."""

    GONE = "what was to be removed is not there"
    DUPLICATE = "what was to be added is there already, by that id"
    PENDING = "the removal is under way"
    BUSY = "not now: try again a little later"
    REFUSED = "no: trying again will not help"


_REMOVAL: tuple[tuple[str, Meaning], ...] = (
    (r"already in the process of unplug", Meaning.PENDING),
    # Native PCIe hotplug: the guest works on the slot (its power indicator blinks), up to five seconds.
    (r"guest is busy|power indicator", Meaning.BUSY),
    # `Chardev 'c1' is busy`, `object 'm1' is in use, can not be deleted`: the device's last reference goes a moment
    # after DEVICE_DELETED (RCU).
    (r"\bis busy\b|\bin use\b", Meaning.BUSY),
    # A vhost-user netdev takes its chardev along (7.2), so this is success for chardev-remove too.
    (r"not found|no such|does not exist", Meaning.GONE),
)

_ADDITION: tuple[tuple[str, Meaning], ...] = (
    (r"duplicate|already exists", Meaning.DUPLICATE),
    (r"guest is busy|power indicator", Meaning.BUSY),
)

_HINTS: tuple[tuple[str, str], ...] = (
    (r"does not support hotplugging", "name a hotplug port: on q35 a `pcie-root-port`, one per device"),
    # `slot 0 function 0 not available for …, in use by …`, `slot 0 function 0 already occupied by …`
    (r"slot \d+ .*(in use|occupied|not available)", "the port is taken: unplug what is there, or use another port"),
    (r"no slot/function available", "every slot is taken: give the VM more ports at its start"),
    (r"no '[^']*' bus found|bus '[^']*' not found", "this VM has no such port: `vpctl down`, then `vpctl up`"),
    (r"only allows plugging into slot 0", "a root port takes one device, in slot 0"),
    (r"already busy memdev", "a memory object serves one ivshmem device: add a fresh object of the same file"),
    (r"can't find value", "the part behind the device is not there; was its command left out?"),
    (r"is not a valid device model name", "this QEMU was built without the device: see `vpctl doctor`"),
    (r"failed to connect|connection refused|no such file", "nobody listens on that socket: the other end goes first"),
    (r"can't take value .* in use", "the netdev belongs to another device"),
    (r"command .* has not been found", "this QEMU is too old, or built without it: see `vpctl doctor`"),
)


def meaning(command: str, error_class: str, description: str) -> Meaning:
    """Say what to do about the refusal of a command that adds or removes."""
    removes = command in ("device_del", "netdev_del", "chardev-remove", "object-del")
    if removes and error_class == "DeviceNotFound":
        return Meaning.GONE
    for pattern, found in _REMOVAL if removes else _ADDITION:
        if re.search(pattern, description, re.IGNORECASE):
            return found
    return Meaning.REFUSED


def hint(description: str) -> str | None:
    """Return what a user can do about a refusal, if that is known."""
    for pattern, text in _HINTS:
        if re.search(pattern, description, re.IGNORECASE):
            return text
    return None
