"""Plays the host of one vhost-pci link: vm2's vhost-user back-end, vm1's ivshmem server, and vm1's control page.

Of the broker only what is pure is used, so that the guest's driver can be tried with a host that does what ours would
not.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.ivshmem_host import HOST_ID, ControlPage, sealed_memory
from vpctl.broker import control_page
from vpctl.broker.control_page import PEER_RING, SLOT, Answer, AnswerState, PeerRing, SlotState
from vpctl.broker.vhost_user import message as vhost_user
from vpctl.broker.vhost_user.datapath import VringSet
from vpctl.broker.vhost_user.message import Feature, Message, Parser, Request
from vpctl.broker.vhost_user.negotiation import OFFER, PROTOCOL, Negotiation
from vpctl.errors import ReadyTimeoutError
from vpctl.wait import until

QUIET_SECONDS = 0.02
ACK_SECONDS = 3.0
FIRST_PEER = 100


@dataclass(kw_only=True)
class Device:
    """vm1's device in one generation: an id, its interrupts, and the eventfds of vm2 that it can ring."""

    ivposition: int
    path: Path
    listener: socket.socket
    control: int
    acknowledged: int
    vrings: VringSet
    connection: socket.socket | None = None
    peers: int = 1
    held: list[int] = field(default_factory=list)
    handlers: frozenset[int] = frozenset()
    """Where vm1's QEMU has the interrupts."""

    @property
    def interrupts(self) -> list[int]:
        """The device's own eventfds: control, and vm2's kicks."""
        return [self.control, *(ring.kick.fd for ring in self.vrings.rings)]

    @property
    def vectors(self) -> int:
        """How many those are."""
        return len(self.interrupts)

    def close(self) -> None:
        """Close what is ours."""
        self.listener.close()
        if self.connection is not None:
            self.connection.close()
        for fd in (self.control, self.acknowledged, *self.held):
            os.close(fd)


@dataclass(kw_only=True)
class Host:
    """vm2's memory, the back-end that it talks to, and vm1's device."""

    directory: Path
    page: ControlPage
    mac: bytes
    front_mac: bytes
    queue_pairs: int = 1
    mtu: int = 1500
    slot: int = 0
    memory_size: int = 256 << 20
    offer: int = OFFER | Feature.PROTOCOL_FEATURES
    generation: int = 0
    confirms: bool = True
    """Whether answers are confirmed."""
    ram: int = -1
    memory: mmap.mmap = field(init=False)
    device: Device | None = None
    answers: list[Answer] = field(default_factory=list)
    _negotiation: Negotiation | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ram = sealed_memory("ram", self.memory_size)
        self.memory = mmap.mmap(self.ram, self.memory_size)

    @property
    def front_path(self) -> Path:
        """Where vm2 connects to."""
        return self.directory / "front"

    @property
    def front_options(self) -> list[str]:
        """vm2's options, to go with a machine whose `memory-backend` is `ram`."""
        megabytes = self.memory_size >> 20
        path = f"/proc/{os.getpid()}/fd/{self.ram}"
        queues = f",queues={self.queue_pairs}" if self.queue_pairs > 1 else ""
        nic = f"virtio-net-pci,netdev=n0,id=nic0,mac={self.front_mac.hex(':')},romfile="
        nic += ",rx_queue_size=1024,tx_queue_size=1024,vectors=0"  # QEMU 7.2 dies of MSI-X here, under TCG
        return [
            *("-object", f"memory-backend-file,id=ram,mem-path={path},size={megabytes}M,share=on"),
            *("-chardev", f"socket,id=vu,path={self.front_path}"),
            *("-netdev", f"vhost-user,id=n0,chardev=vu{queues}"),
            *("-device", nic + (",mq=on" if queues else "")),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen for vm2 as long as the block lasts."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(self.front_path))
        listener.listen(1)
        listener.setblocking(False)
        task = asyncio.create_task(self._serve_fronts(listener), name="front")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            listener.close()
            self.drop_device()
            self.memory.close()
            os.close(self.ram)

    # Section: vm2's back-end

    async def _serve_fronts(self, listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            offer = self.offer | (Feature.MQ if self.queue_pairs > 1 else 0)
            self._negotiation = Negotiation(
                offer=offer,
                queue_pairs=self.queue_pairs,
                protocol_offer=PROTOCOL,
                ram=self.ram,
                ram_name="ram",
                known=lambda _: False,
            )
            try:
                await self._serve_front(connection, self._negotiation)
            finally:
                connection.close()
                self._negotiation.close()
                self._negotiation = None

    async def _serve_front(self, connection: socket.socket, negotiation: Negotiation) -> None:
        connection.setblocking(False)
        parser = Parser()
        while True:
            data, fds = await _receive(connection, parser.wanted)
            if not data:
                return
            message = parser.feed(data, fds)
            if message is None:
                continue
            try:
                reply = await self._carry_out(negotiation, message)
            finally:
                for fd in message.fds:
                    os.close(fd)
            if reply:
                await asyncio.get_running_loop().sock_sendall(connection, reply)
            self._changed.set()

    async def _carry_out(self, negotiation: Negotiation, message: Message) -> bytes:
        payload = vhost_user.decode(message)
        if message.request == Request.GET_VRING_BASE:
            assert isinstance(payload, vhost_user.RingState)
            with contextlib.suppress(ReadyTimeoutError):  # nobody is there, or nobody that answers
                await self.off()
            negotiation.halt(payload.index)
            state = vhost_user.RingState(index=payload.index, value=negotiation.base(payload.index))
            return vhost_user.state_reply(message, state)
        if message.request in vhost_user.REPLIES:
            return vhost_user.number_reply(message, negotiation.answer(message.request))
        negotiation.take(message, payload)
        if message.request == Request.SET_VRING_CALL and isinstance(payload, vhost_user.RingFd):
            self._take_call(negotiation, payload.index)
        return vhost_user.number_reply(message, 0) if message.wants_reply else b""

    def _take_call(self, negotiation: Negotiation, ring: int) -> None:
        """A call that changes while the device is there becomes a new peer of it."""
        call = negotiation.rings[ring].call
        if self.device is None or self.device.connection is None or call is None:
            return
        if self.slot_state is SlotState.ON:
            self.change_doorbell(ring, os.dup(call.fd))

    async def wait_ready(self) -> VringSet:
        """Wait until the rings are complete and have been so for a while."""
        async with asyncio.timeout(60):
            while True:
                self._changed.clear()
                vrings = self._negotiation.vrings() if self._negotiation is not None else None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), QUIET_SECONDS if vrings else None)
                    continue
                if vrings is not None:
                    return vrings

    # Section: vm1's device and its slot

    @property
    def slot_state(self) -> SlotState:
        """What the slot says."""
        offset = control_page.slot_offset(self.slot)
        return SlotState(struct.unpack_from("<I", self.page.memory, offset)[0])

    @property
    def answer(self) -> Answer:
        """What the driver has said last."""
        offset = control_page.slot_offset(self.slot) + SLOT.offsets["answer"]
        return control_page.answer(self.page.memory[offset : offset + control_page.ANSWER.size])

    def begin(self, vrings: VringSet) -> Device:
        """Begin a generation for rings that are ready: a fresh id, and the slot on."""
        self.drop_device()
        self.generation += 1
        path = self.directory / f"back-{self.generation}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        device = Device(
            ivposition=1000 + self.generation,
            path=path,
            listener=listener,
            control=os.eventfd(0, os.EFD_CLOEXEC),
            acknowledged=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            vrings=vrings,
        )
        self.device = device
        self.write_slot()
        asyncio.get_running_loop().add_reader(device.acknowledged, self._hear)
        return device

    def write_slot(self, **changes: int | bytes) -> None:
        """Fill the slot in, and turn it on."""
        assert self.device is not None
        vrings = self.device.vrings
        rings = [
            PeerRing(
                desc=ring.desc,
                avail=ring.avail,
                used=ring.used,
                size=ring.size,
                doorbell=FIRST_PEER << 16 | number,
                vector=1 + number,
            )
            for number, ring in enumerate(vrings.rings)
        ]
        values: dict[str, int | bytes] = {
            "ivposition": self.device.ivposition,
            "generation": self.generation,
            "kind": control_page.KIND_VHOST_PCI,
            "host": HOST_ID,
            "queue_pairs": len(vrings.rings) // 2,
            "mtu": self.mtu,
            "mac": self.mac,
            "name": b"shm0",
            "region_size": self.memory_size,
            "features": vrings.features,
            "region_count": len(vrings.regions),
            "regions": control_page.peer_regions(vrings.regions),
            "rings": control_page.peer_rings(rings),
            "state": SlotState.ON,
        }
        self.page.write_slot(self.slot, **{**values, **changes})

    def turn_on(self) -> None:
        """Turn the slot of a device that was called off on again, for a driver that is bound to it anew."""
        at = control_page.slot_offset(self.slot) + SLOT.offsets["answer"]
        self.write_slot(answer=self.page.memory[at : at + control_page.ANSWER.size])

    def written(self) -> list[bytes]:
        """Return what the driver has written to each of the peer's rings but used elements: `used`, `avail_event`.

        A driver that has acknowledged that the link is off writes none of it, whatever comes.
        """
        assert self.device is not None
        events = ((ring.used, ring.used + 4 + 8 * ring.size) for ring in self.device.vrings.rings)
        return [self.memory[used : used + 4] + self.memory[event : event + 2] for used, event in events]

    def used_index(self, ring: int) -> int:
        """Return how many buffers of a ring are completed, modulo 2^16."""
        assert self.device is not None
        index: int = struct.unpack_from("<H", self.memory, self.device.vrings.rings[ring].used + 2)[0]
        return index

    async def serve(self) -> None:
        """Answer vm1's QEMU; its device waits for the words until they are complete."""
        device = self.device
        assert device is not None
        connection, _ = await asyncio.get_running_loop().sock_accept(device.listener)
        connection.setblocking(True)
        device.connection = connection
        _say(connection, 0)
        _say(connection, device.ivposition)
        for ring in device.vrings.rings:
            _say(connection, FIRST_PEER, ring.call.fd)
        _say(connection, HOST_ID, device.acknowledged)
        _say(connection, -1, self.ram)
        for fd in device.interrupts:
            _say(connection, device.ivposition, fd)

    def change_doorbell(self, ring: int, call: int) -> None:
        """Give a ring another eventfd to be rung by: a new peer of the device; the descriptor is ours from now on."""
        device = self.device
        assert device is not None
        assert device.connection is not None
        peer = FIRST_PEER + device.peers
        device.peers += 1
        device.held.append(call)
        _say(device.connection, peer, call)
        offset = control_page.slot_offset(self.slot)
        at = offset + control_page.peer_ring_offset(ring) + PEER_RING.offsets["doorbell"]
        self.page.memory[at : at + 4] = struct.pack("<I", peer << 16)
        at = offset + SLOT.offsets["sequence"]
        (sequence,) = struct.unpack_from("<I", self.page.memory, at)
        self.page.memory[at : at + 4] = struct.pack("<I", sequence + 1)
        os.eventfd_write(device.control, 1)

    def _hear(self) -> None:
        device = self.device
        if device is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(device.acknowledged)
        answer = self.answer
        if self.answers and answer == self.answers[-1]:
            return
        self.answers.append(answer)
        if not self.confirms:
            return
        at = control_page.slot_offset(self.slot) + SLOT.offsets["confirmed"]
        self.page.memory[at : at + 4] = struct.pack("<I", answer.request)
        if self.slot_state is SlotState.ON:
            os.eventfd_write(device.control, 1)

    async def off(self) -> float:
        """Call the link off, if it is on, and wait for the driver's word; how long that took."""
        device = self.device
        if device is None or self.slot_state is not SlotState.ON:
            return 0.0
        began = asyncio.get_running_loop().time()
        self.page.set_state(self.slot, SlotState.OFF)

        async def look() -> bool | None:
            return True if self.answer.state != AnswerState.ON else None

        if self.answer.state == AnswerState.ON:
            os.eventfd_write(device.control, 1)
            await until(look, timeout=ACK_SECONDS, what="the driver's acknowledgement", every=0.001)
        return asyncio.get_running_loop().time() - began

    def drop_device(self) -> None:
        """The device is gone."""
        if self.device is not None:
            asyncio.get_running_loop().remove_reader(self.device.acknowledged)
            self.device.close()
            self.device = None


async def _receive(connection: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive bytes and descriptors."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(connection, size, vhost_user.MOST_FDS)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
        else:
            return data, list(fds)


def _say(connection: socket.socket, number: int, fd: int | None = None) -> None:
    socket.send_fds(connection, [struct.pack("<q", number)], [] if fd is None else [fd])
