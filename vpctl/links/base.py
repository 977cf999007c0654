"""What a link kind is: pure functions from a resolved link to argv and hotplug steps.

A new kind is one new file beside this one and one line in `LINK_KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vpctl.qmp.hotplug import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import KindRules, LinkSpec, VmSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a kind needs of a QEMU: version, devices (`-device help` names), and a word for what lacks."""

    qemu: tuple[int, int] = (7, 2)
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlugStep:
    """Plug one end: `device` into `vm`. Steps are carried out in order; each is done before the next begins."""

    vm: str
    device: DevicePlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a link's end goes in its VM: the bus that takes the hot-added device."""

    vm: VmSpec
    bus: str


class LinkKind(Protocol):
    """One kind of link. Everything here is pure; `supervisor` and `recovery` carry it out."""

    @property
    def rules(self) -> KindRules:
        """Its keys, policies and limits, for the loader."""

    @property
    def requirements(self) -> Requirements:
        """What it needs of QEMU."""

    def port_args(self, link: LinkSpec, vm: VmSpec, *, port: str, number: int) -> list[str]:
        """Return the argv that a VM needs from its start: the root port of the link's end and the like."""

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: dict[str, Place], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        """Return how one generation of the link is plugged, beginning at VM `first` (after a crash: the survivor)."""
