"""Plays the host of one shared-memory link: control pages, region, eventfds and the server's words to both QEMUs.

No part of the broker is used but the layout, so that the guest's driver can be tried without it, and with a host that
does what ours would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vpctl.broker import control_page

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
HOST_ID = 60000


def sealed_memory(name: str, size: int) -> int:
    """Return a memfd whose size nobody changes any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


@dataclass(kw_only=True)
class ControlPage:
    """A VM's control page; stays over the generations of its links."""

    fd: int
    memory: mmap.mmap

    @property
    def options(self) -> list[str]:
        """QEMU's options for it; this process must outlive QEMU's start."""
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        return [
            *("-object", f"memory-backend-file,id=vpctl-control,mem-path={path},size=64K,share=on"),
            *("-device", "ivshmem-plain,memdev=vpctl-control,id=vpctl-control"),
        ]

    def write_slot(self, slot: int, **values: int | bytes) -> None:
        """Fill a slot in, its state last."""
        state = values.pop("state")
        assert isinstance(state, int)
        offset = control_page.slot_offset(slot)
        packed = control_page.SLOT.pack(**values)
        self.memory[offset + 4 : offset + len(packed)] = packed[4:]
        self.set_state(slot, control_page.SlotState(state))

    def set_state(self, slot: int, state: control_page.SlotState) -> None:
        """Change a slot's state alone."""
        offset = control_page.slot_offset(slot)
        self.memory[offset : offset + 4] = control_page.slot_state(state)


@contextmanager
def control_pages(count: int) -> Iterator[list[ControlPage]]:
    """Make empty control pages."""
    with contextlib.ExitStack() as stack:
        pages = []
        for number in range(count):
            fd = sealed_memory(f"control{number}", control_page.PAGE_SIZE)
            stack.callback(os.close, fd)
            memory = stack.enter_context(mmap.mmap(fd, control_page.PAGE_SIZE))
            header = control_page.control_header()
            memory[: len(header)] = header
            pages.append(ControlPage(fd=fd, memory=memory))
        yield pages


@dataclass(kw_only=True)
class End:
    """One end of a link in one generation: an id, the interrupts of its device, the socket its QEMU comes to."""

    ivposition: int
    mac: bytes
    page: ControlPage
    slot: int
    path: Path
    vectors: list[int]
    acknowledged: int
    listener: socket.socket

    def interrupt(self, vector: int = 0) -> None:
        """Raise an interrupt of this end's device."""
        os.eventfd_write(self.vectors[vector], 1)

    def turn_off(self) -> None:
        """Call the link off for this end."""
        self.page.set_state(self.slot, control_page.SlotState.OFF)
        self.interrupt()

    def has_acknowledged(self) -> bool:
        """Take the driver's acknowledgement, if there is one."""
        readable, _, _ = select.select([self.acknowledged], [], [], 0)
        return bool(readable) and os.eventfd_read(self.acknowledged) > 0


@dataclass(kw_only=True)
class Link:
    """A region and, for its present generation, both ends."""

    directory: Path
    pages: list[ControlPage]
    size: int = 16 << 20
    queue_pairs: int = 1
    mtu: int = 1500
    slot: int = 0
    ring_size: int = 0
    generation: int = 0
    region: int = -1
    memory: mmap.mmap = field(init=False)
    ends: list[End] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.region = sealed_memory("region", self.size)
        self.memory = mmap.mmap(self.region, self.size)
        self.ring_size = self.ring_size or control_page.ring_size(self.size, self.queue_pairs)

    def begin(self) -> None:
        """Begin a generation: a clean region, fresh ids and eventfds, both slots on."""
        self.generation += 1
        self._close_ends()
        header = control_page.region_header(
            region_size=self.size, generation=self.generation, queue_pairs=self.queue_pairs
        )
        header = header[:28] + struct.pack("<I", self.ring_size) + header[32:]
        self.memory[: control_page.HEADERS_SIZE] = bytes(control_page.HEADERS_SIZE)
        self.memory[: len(header)] = header
        for role, page in enumerate(self.pages):
            self.ends.append(self._end(role, page))
        for role, end in enumerate(self.ends):
            self._write_slot(role, end)

    def _end(self, role: int, page: ControlPage) -> End:
        path = self.directory / f"l{self.slot}-{role}-{self.generation}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(path))
        listener.listen(1)
        return End(
            ivposition=1000 * (self.slot + 1) + 2 * self.generation + role,
            mac=bytes([0x52, 0x56, 0x77, 0, self.slot, role + 1]),
            page=page,
            slot=self.slot,
            path=path,
            vectors=[os.eventfd(0, os.EFD_CLOEXEC) for _ in range(control_page.vectors(self.queue_pairs))],
            acknowledged=os.eventfd(0, os.EFD_CLOEXEC),
            listener=listener,
        )

    def _write_slot(self, role: int, end: End) -> None:
        end.page.write_slot(
            self.slot,
            state=control_page.SlotState.ON,
            ivposition=end.ivposition,
            generation=self.generation,
            kind=control_page.KIND_NET,
            role=role,
            peer=self.ends[1 - role].ivposition,
            host=HOST_ID,
            queue_pairs=self.queue_pairs,
            mtu=self.mtu,
            mac=end.mac,
            name=f"shm{self.slot}".encode(),
            region_size=self.size,
            data_offset=control_page.HEADERS_SIZE,
            ring_size=self.ring_size,
        )

    async def serve(self, role: int) -> None:
        """Answer one QEMU; its device waits for the words until they are complete."""
        own, peer = self.ends[role], self.ends[1 - role]
        own.listener.setblocking(False)
        connection, _ = await asyncio.get_running_loop().sock_accept(own.listener)
        connection.setblocking(True)
        self.connections.append(connection)
        _say(connection, 0)
        _say(connection, own.ivposition)
        for fd in peer.vectors:
            _say(connection, peer.ivposition, fd)
        _say(connection, HOST_ID, own.acknowledged)
        _say(connection, -1, self.region)
        for fd in own.vectors:
            _say(connection, own.ivposition, fd)

    def leave(self, role: int) -> None:
        """Tell one QEMU that the peer is gone."""
        _say(self.connections[role], self.ends[1 - role].ivposition)

    def _close_ends(self) -> None:
        for end in self.ends:
            end.listener.close()
            for fd in (*end.vectors, end.acknowledged):
                os.close(fd)
        for connection in self.connections:
            connection.close()
        self.ends.clear()
        self.connections.clear()

    def close(self) -> None:
        """Free everything."""
        self._close_ends()
        self.memory.close()
        os.close(self.region)


def _say(connection: socket.socket, number: int, fd: int | None = None) -> None:
    socket.send_fds(connection, [struct.pack("<q", number)], [] if fd is None else [fd])
