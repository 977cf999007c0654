"""The states of VMs and links, and what is known of both: the ground that recovery plans stand on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class VmState(StrEnum):
    """A VM's state, as `status` shows it.

    starting → booting → ready → crashed → recovering → booting → ready;  stopped: it powered off by itself;
    failed: it did not come up, or not again, and nothing more is tried.
    """

    STARTING = "starting"
    BOOTING = "booting"
    READY = "ready"
    CRASHED = "crashed"
    RECOVERING = "recovering"
    STOPPED = "stopped"
    FAILED = "failed"


BOOT_STAGES = ("process", "qmp", "kernel", "ssh")
"""The stages of a boot, in order, as journal entries and `status` name them."""


class LinkState(StrEnum):
    """A link's state: `up` means that packets were seen to flow both ways after the last repair."""

    UP = "up"
    DOWN = "down"
    RECOVERING = "recovering"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkView:
    """What is known of a link.

    `plugged` maps a VM to the generations of the link whose device may be in it: written down before a plug and
    taken away after an unplug, so that a supervisor which was killed in between leaves nothing unknown.
    """

    state: LinkState
    generation: int
    plugged: Mapping[str, tuple[int, ...]]
    failed: frozenset[str] = frozenset()
    """The policies by which it was tried in vain since it was up last."""
    gone: frozenset[str] = frozenset()
    """The VMs whose device somebody else has removed; what was plugged beside it is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RingsView:
    """What is known of the end that a link has to begin at, see `LinkKind.virtio_net_end`."""

    vm: str
    served: bool = True
    """Whether its device has a back-end: the broker, which takes that along when it dies."""
    idle: bool = False
    """Whether nobody works its rings, so that its device can stay and another vhost-pci end take them up."""
    running: bool = True
    """Whether its driver has started its rings."""
