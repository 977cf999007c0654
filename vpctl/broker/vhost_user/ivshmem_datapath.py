"""The data path that is an ivshmem-doorbell device: its BAR2 is the front-end's RAM, its interrupts are its eventfds.

The device's vector 1 + r is the kick of ring r. The calls are the vectors of a peer that the device can ring; a call
that comes later is a peer of its own. What the guest has to know is in its slot of the control page, and its answer
is there too: docs/shared-memory-layout.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vpctl.broker import control_page as layout
from vpctl.broker.control_page import ACK_SECONDS, HOST_ID, LARGEST_ID, SLOT, Answer, AnswerState, PeerRing, SlotState
from vpctl.broker.ivshmem.bells import Bell, Bells
from vpctl.broker.ivshmem.message import Peer
from vpctl.broker.ivshmem.peer_server import PeerServer
from vpctl.broker.ivshmem.peer_server import Tell as TellDevice
from vpctl.broker.vhost_user.datapath import Eventfd, VringSet
from vpctl.errors import UsageError

CALLS_OF_A_RING = 8
"""Eventfds that each ring may be given as its call, on average, in one session; QEMU alternates between two.

Each is a descriptor here and one in the QEMU of the device, which can be told of a new one, but not to forget an old.
"""

_FIRST_PEER = HOST_ID + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSpec:
    """The other guest's device: its name there, where its QEMU connects, its id and vectors, and its slot."""

    name: str
    path: str
    id: int
    vectors: int
    slot: int
    """Offset in the control page."""
    description: bytes
    """The slot as far as it does not depend on the rings."""


TellAnswer = Callable[[Answer], None]
TellStuck = Callable[[str], None]


class IvshmemDatapath:
    """A `Datapath`. The descriptors of RAM and control page stay the caller's.

    `answered` is called with what the driver says, `stuck` with the reason why a call cannot be signalled any more:
    the front-end's own QEMU does not let it.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        *,
        ram: int,
        control: int,
        tell: TellDevice,
        answered: TellAnswer,
        stuck: TellStuck,
        bells: Bells,
    ) -> None:
        self._spec = spec
        self._fds = [os.dup(ram), os.dup(control)]
        """All that is ours to close: RAM, control page, and the calls."""
        self._tell = tell
        self._answered = answered
        self._stuck = stuck
        self._bells = bells
        self._server: PeerServer | None = None
        self._calls: dict[int, tuple[int, int]] = {}
        """The eventfds that the device can ring, by the kernel's ids: descriptor and doorbell."""
        self._bell_of: dict[int, Bell] = {}
        """Of the calls that were changed, by the kernel's ids."""
        self._changes = 0
        """Calls that came after the device was attached."""
        self._most_changes = 0
        self._next_peer = _FIRST_PEER
        self._sequence = 0
        self._last: Answer | None = None
        self._released: asyncio.Future[bool] | None = None
        """Made when the guest is to let go; done when it has, or when time is up."""
        self._rung_anew: dict[int, int] = {}
        """Calls that were changed, by the kernel's ids → the sequence number under which the guest learns of it."""

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def last_answer(self) -> Answer | None:
        """What the driver has said last."""
        return self._last

    @property
    def is_on(self) -> bool:
        """Whether a guest may be working the rings."""
        return self._server is not None and (self._released is None or not self._released.done())

    def attach(self, vrings: VringSet) -> None:
        if 1 + len(vrings.rings) > self._spec.vectors:  # QEMU would take the others for an error of the server
            raise UsageError(f"`{self.name}` has {self._spec.vectors} vectors for {len(vrings.rings)} rings")
        own: list[int] = []
        self._most_changes = CALLS_OF_A_RING * len(vrings.rings)
        try:
            own.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            for ring in vrings.rings:
                own.append(os.dup(ring.kick.fd))
            peer = self._peer([ring.call for ring in vrings.rings])
            device = Peer(id=self._spec.id, eventfds=tuple(own))
            self._server = PeerServer(
                self._spec.path, device, region=self._fds[0], tell=self._hear, bells=self._bells
            )
            own.clear()  # they are the server's now
            self._server.open([peer])
            self._fill_in(vrings)
        except BaseException:
            for fd in own:
                os.close(fd)
            self.detach()
            raise

    def change_call(self, ring: int, call: Eventfd) -> None:
        """A call that the guest could ring before, such as QEMU's for a masked interrupt, has its doorbell still."""
        if self._server is None or self._released is not None:
            return
        if call.id not in self._calls:
            if self._changes >= self._most_changes:
                raise OSError(f"it was given {self._changes} others in this session")
            self._changes += 1
            self._server.join(self._peer([call]))
        fd, doorbell = self._calls[call.id]
        if call.id not in self._bell_of:
            reason = f"ring {ring}: its call eventfd blocks the writer"
            self._bell_of[call.id] = self._bells.bell(fd, lambda: self._stuck(reason))
        self._sequence += 1
        entry = self._spec.slot + layout.peer_ring_offset(ring)
        self._write(entry + layout.PEER_RING.offsets["doorbell"], layout.number(doorbell))
        self._write(self._spec.slot + SLOT.offsets["sequence"], layout.number(self._sequence))
        self._rung_anew[call.id] = self._sequence
        self._bell_of[call.id].ring()
        self._server.ring()

    async def off(self) -> bool:
        if self._server is None:
            return True
        if self._released is None:
            self._released = asyncio.get_running_loop().create_future()
            self._write(self._spec.slot, layout.slot_state(SlotState.OFF))
            # The driver writes its answer before it looks at the state once more, and only then at the rings.
            if not self._server.connected or self._read_answer().state != AnswerState.ON:
                self._released.set_result(True)
            else:
                self._server.ring()
        released = self._released
        await asyncio.wait([released], timeout=ACK_SECONDS)  # the front-end's QEMU waits meanwhile
        if not released.done():
            released.set_result(False)
        if self._server is not None:  # an interrupt that is still to be raised must not come after the unplug
            await self._server.settled()
        return released.result()

    def detach(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for bell in self._bell_of.values():
            bell.close()
        self._bell_of.clear()
        self._calls.clear()
        while self._fds:
            os.close(self._fds.pop())
        if self._released is not None and not self._released.done():
            self._released.set_result(False)

    def as_json(self) -> dict[str, Any]:
        """Return what `query_ivshmem` tells of it: one end, the device."""
        ends = [self._server.as_json()] if self._server is not None else []
        return {"name": self.name, "memory": None, "ends": ends}

    # Section: the slot

    def _fill_in(self, vrings: VringSet) -> None:
        """Fill the slot in, its state last; the answer of a device that was there before goes."""
        values = {
            **SLOT.unpack(self._spec.description),
            "state": SlotState.FREE,
            "ivposition": self._spec.id,
            "kind": layout.KIND_VHOST_PCI,
            "host": HOST_ID,
            "queue_pairs": vrings.queue_pairs,
            "region_size": os.fstat(self._fds[0]).st_size,
            "features": vrings.features,
            "sequence": 0,
            "region_count": len(vrings.regions),
            "confirmed": 0,
            "regions": layout.peer_regions(vrings.regions),
            "rings": layout.peer_rings(self._rings(vrings)),
            "answer": b"",
        }
        self._write(self._spec.slot, SLOT.pack(**values))
        self._write(self._spec.slot, layout.slot_state(SlotState.ON))

    def _rings(self, vrings: VringSet) -> list[PeerRing]:
        return [
            PeerRing(
                desc=ring.desc,
                avail=ring.avail,
                used=ring.used,
                size=ring.size,
                doorbell=self._calls[ring.call.id][1],
                vector=1 + number,
            )
            for number, ring in enumerate(vrings.rings)
        ]

    def _write(self, offset: int, content: bytes) -> None:
        os.pwrite(self._fds[1], content, offset)

    def _read_answer(self) -> Answer:
        data = os.pread(self._fds[1], layout.ANSWER.size, self._spec.slot + SLOT.offsets["answer"])
        answer = layout.answer(data)
        if answer.ivposition != self._spec.id:
            return Answer(state=AnswerState.NONE, ivposition=self._spec.id, sequence=0, request=0, features=0)
        return answer

    def _peer(self, calls: list[Eventfd]) -> Peer:
        """Return a new peer whose vectors are duplicates of these eventfds."""
        if self._next_peer == self._spec.id:
            self._next_peer += 1
        if self._next_peer > LARGEST_ID:
            raise OSError(f"`{self.name}` has had {LARGEST_ID} peers")
        peer, self._next_peer = self._next_peer, self._next_peer + 1
        copies = []
        for vector, call in enumerate(calls):
            copies.append(copy := os.dup(call.fd))
            self._fds.append(copy)
            self._calls.setdefault(call.id, (copy, peer << 16 | vector))
        return Peer(id=peer, eventfds=tuple(copies))

    # Section: the guest's answers

    def _hear(self, what: str) -> None:
        if what == "ack":
            self._take_answer()
            return
        self._tell(what)
        if what == "leave" and self._released is not None and not self._released.done():
            self._released.set_result(True)

    def _take_answer(self) -> None:
        if self._server is None:
            return
        answer = self._read_answer()
        if answer.state not in (AnswerState.ON, AnswerState.OFF) or answer == self._last:
            return
        self._last = answer
        self._write(self._spec.slot + SLOT.offsets["confirmed"], layout.number(answer.request))
        if self._released is None or not self._released.done():
            # Once the guest has let go its device may be unplugged, and must not be rung any more.
            self._server.ring()
        if self._released is not None and not self._released.done() and answer.state == AnswerState.OFF:
            self._released.set_result(True)
        for call, sequence in tuple(self._rung_anew.items()):
            if answer.sequence >= sequence:  # what it rang before, it rang where nobody listens any more
                self._bell_of[call].ring()
                del self._rung_anew[call]
        self._answered(answer)
