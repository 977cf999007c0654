"""One link over all its generations: its state, and which devices of it may be where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vpctl.journal import Journal
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.plan import FALLBACK
from vpctl.recovery.state import LinkState, LinkView


class Link:
    """Every change is written down before what it stands for is done, so that a successor knows of it."""

    def __init__(self, name: str, journal: Journal, on_change: Callable[[], None]) -> None:
        self.name = name
        self.state = LinkState.DOWN
        self.reason: str | None = None
        """Why it is in that state, if there is more to it."""
        self.rests = False
        """Whether it is not to be repaired unasked: a guest has its interface off, or ejects its device each time."""
        self.generation = 0
        self.plugged: dict[str, list[int]] = {}
        self.leaving: set[tuple[str, str]] = set()
        """The devices that we take out just now, by VM: that they go is no news. Both ends' may have the same id."""
        self.offer: int | None = None
        """The features that a virtio-net end may be offered, a mask, once the other end's driver has refused some."""
        self.failed: frozenset[str] = frozenset()
        """The policies by which it was tried in vain since it was up last."""
        self.gone: set[str] = set()
        """The VMs whose device was removed by somebody else; what was plugged beside it is there."""
        self.asked: str | None = None
        """The policy that a user has asked for, for the next repair."""
        self.changed = asyncio.Event()
        """Set, and replaced by a new one, at each change of its state."""
        self.lock = asyncio.Lock()
        self.checking = asyncio.Lock()
        """Held by whoever sends a check's packets over it: both guests have one set of ports for them."""
        self._journal = journal
        self._on_change = on_change

    def view(self) -> LinkView:
        """Return what recovery plans with."""
        plugged = {vm: tuple(generations) for vm, generations in self.plugged.items()}
        gone = frozenset(self.gone)
        return LinkView(state=self.state, generation=self.generation, plugged=plugged, failed=self.failed, gone=gone)

    def set_state(self, state: LinkState, *, reason: str | None = None) -> None:
        """Enter a state; journalled, with the reason if there is more to it, unless it is the present one."""
        if state is self.state and not self.rests:
            return
        self.state, self.reason, self.rests = state, reason, False
        if state is LinkState.UP:
            self.failed = frozenset()
        attributes: dict[str, Any] = {"state": str(state), "generation": self.generation}
        if reason is not None:
            attributes["reason"] = reason
        self._journal.write("link.state", link=self.name, attributes=attributes)
        self._on_change()
        self.changed.set()
        self.changed = asyncio.Event()

    def rest(self, reason: str) -> None:
        """Be down for as long as a guest has its interface off."""
        self.set_state(LinkState.DOWN, reason=reason)
        self.rests = True
        self._on_change()

    def give_up(self, reason: str) -> None:
        """Have failed, and be left alone until a user asks, or a VM of it is created anew."""
        self.set_state(LinkState.FAILED, reason=reason)
        self.rests = True
        self._on_change()

    async def until_down(self) -> None:
        """Wait until it is up no more; by now it may be up again."""
        if self.state is LinkState.UP:
            await self.changed.wait()

    def begin(self, generation: int) -> None:
        """A repair begins, as a new generation."""
        self.generation = generation
        self.set_state(LinkState.RECOVERING)
        self._on_change()

    def policy_failed(self, policy: str) -> None:
        """A repair by this policy was in vain: until the link is up nobody tries it again if there is another."""
        if (harder := FALLBACK.get(policy)) is None:
            return
        self.failed |= {policy}
        attributes = {"name": "fall-back", "target": self.name, "ok": True, "from": policy, "to": harder}
        self._journal.write("recovery.step", link=self.name, attributes=attributes)
        self._on_change()

    def plugging(self, vm: str, generation: int) -> None:
        """A device is about to be plugged: from now on it may be there."""
        self.plugged.setdefault(vm, []).append(generation)
        self._on_change()

    def kept(self, vm: str) -> int:
        """Return the generation of the one device of a VM's that stays; EndGoneError if its QEMU has gone meanwhile.

        Between a plan and its step everything that is known of a VM may have been forgotten.
        """
        generations = self.plugged.get(vm, ())
        if len(generations) != 1:
            raise EndGoneError(f"link `{self.name}` has lost its end in `{vm}`", hint="vpctl status")
        return generations[0]

    def unplugged(self, vm: str, generation: int) -> None:
        """A device is gone for certain."""
        self.gone.discard(vm)
        if generation in self.plugged.get(vm, []):
            self.plugged[vm].remove(generation)
            self._on_change()

    def lost(self, vm: str) -> None:
        """A device is gone, and nobody here has taken it out."""
        self.gone.add(vm)
        self._on_change()

    @contextmanager
    def taking_out(self, vm: str, device: str) -> Iterator[None]:
        """For as long as the block lasts, that a device goes is our own doing."""
        self.leaving.add((vm, device))
        try:
            yield
        finally:
            self.leaving.discard((vm, device))

    def take_policy(self) -> str | None:
        """Return the policy that was asked for, which counts once; None: the link's own."""
        asked, self.asked = self.asked, None
        return asked

    def restrict(self, offer: int) -> None:
        """From the next plug on a virtio-net end is offered these features at most."""
        self.offer = offer
        self._on_change()

    def forget(self, vm: str) -> None:
        """A VM's QEMU is gone, and every device with it."""
        self.gone.discard(vm)
        if self.plugged.pop(vm, None):
            self._on_change()

    def as_json(self) -> dict[str, Any]:
        """Return the link's own part of `status`."""
        return {
            "name": self.name,
            "state": str(self.state),
            "reason": self.reason,
            "rests": self.rests,
            "generation": self.generation,
            "plugged": {vm: list(generations) for vm, generations in self.plugged.items()},
            "offer": self.offer,
            "gone": sorted(self.gone),
            "failed": sorted(self.failed),
        }

    def restore(self, entry: Mapping[str, Any]) -> None:
        """Take over what a supervisor before this one wrote down; what it had in hand counts as down."""
        state = LinkState(entry["state"])
        self.state = state if state is LinkState.UP else LinkState.DOWN
        self.rests = entry.get("rests", False)
        self.reason = entry.get("reason") if self.rests else None
        self.generation = entry["generation"]
        self.offer = entry["offer"]
        self.gone = set(entry["gone"])
        self.failed = frozenset(entry.get("failed", ()))  # a supervisor of an earlier version wrote none
        self.plugged = {vm: list(generations) for vm, generations in entry["plugged"].items()}
