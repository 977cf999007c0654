"""The link kinds, each in a file of its own; this mapping is the only registry."""

from __future__ import annotations

from collections.abc import Mapping

from vpctl.links.dgram import DgramKind
from vpctl.links.ivshmem_doorbell import IvshmemDoorbellKind
from vpctl.links.kind import LinkKind
from vpctl.links.stream import StreamKind
from vpctl.links.tap import TapKind
from vpctl.links.vhost_pci import VhostPciKind

LINK_KINDS: Mapping[str, LinkKind] = {
    "stream": StreamKind(),
    "dgram": DgramKind(),
    "tap": TapKind(),
    "ivshmem-doorbell": IvshmemDoorbellKind(),
    "vhost-pci": VhostPciKind(),
}
