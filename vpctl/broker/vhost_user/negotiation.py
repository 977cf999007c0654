"""What a vhost-user front-end has told its back-end so far: features, memory, rings. Holds the rings' descriptors."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vpctl.broker.control_page import MAX_REGIONS, PeerRegion
from vpctl.broker.vhost_user.datapath import Eventfd, Vring, VringSet
from vpctl.broker.vhost_user.message import (
    LARGEST_RING,
    Feature,
    MemoryRegion,
    Message,
    Payload,
    ProtocolFeature,
    RefusedError,
    Request,
    RingAddress,
    RingFd,
    RingState,
)
from vpctl.process import eventfd_id

OFFER = (
    Feature.CSUM
    | Feature.GUEST_CSUM
    | Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
    | Feature.GUEST_ECN
    | Feature.HOST_TSO4
    | Feature.HOST_TSO6
    | Feature.HOST_ECN
    | Feature.MRG_RXBUF
    | Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.VERSION_1
)
"""What a driver of ours may be asked to do, at most."""

PROTOCOL = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
"""Not STATUS: QEMU 7.2 then says 0, and only afterwards asks for the rings' bases."""

SLOTS = PROTOCOL | ProtocolFeature.CONFIGURE_MEM_SLOTS
"""For front-ends that have more regions than one table takes, and for no other.

With it QEMU takes back, at the next start of the rings, what regions have gone while they were stopped, and looks for
their memory, which is not there any more: a segmentation fault (seen in 7.2).
"""

MEMORY_SLOTS = 64
"""Regions that a front-end may have, foreign ones too."""

_FOUR_GIB = 1 << 32


@dataclass(kw_only=True, slots=True)
class Ring:
    """A ring as it was told; it works only when it is complete and enabled."""

    size: int = 0
    base: int = 0
    address: RingAddress | None = None
    kick: Eventfd | None = None
    call: Eventfd | None = None
    enabled: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all is there that a back-end works with."""
        return bool(self.size and self.address and self.kick and self.call)

    def drop(self) -> None:
        """Forget the eventfds."""
        for eventfd in (self.kick, self.call):
            if eventfd is not None:
                os.close(eventfd.fd)
        self.kick = self.call = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Foreign:
    """A region that is not the VM's RAM: memory of a device, as a rule."""

    region: MemoryRegion
    known: bool
    """Whether it is another memory of the broker's, which can only be a device's."""


@dataclass(kw_only=True)
class Negotiation:
    """The state of one connection; `ram` is the file that the VM's memory is in."""

    offer: int
    queue_pairs: int
    protocol_offer: ProtocolFeature
    ram: int
    ram_name: str
    known: Callable[[os.stat_result], bool]
    """Whether a file is one of the broker's own memories."""
    features: int = 0
    protocol: int = 0
    rings: list[Ring] = field(init=False)
    regions: list[MemoryRegion] = field(default_factory=list)
    foreign: list[_Foreign] = field(default_factory=list)
    _unheard: Eventfd | None = None
    """What rings have as their call whose front-end polls them: an eventfd without a listener."""

    def __post_init__(self) -> None:
        self.rings = [Ring() for _ in range(2 * self.queue_pairs)]

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        for ring in self.rings:
            ring.drop()
        if self._unheard is not None:
            os.close(self._unheard.fd)
            self._unheard = None

    def take(self, message: Message, payload: Payload) -> None:
        """Carry out a request that changes the state. RefusedError, and no change, if it is wrong.

        The message's descriptors stay the caller's: what is kept is a duplicate.
        """
        match payload:
            case RingState() | RingAddress() | RingFd():
                self._take_ring(message, payload)
            case tuple():
                self._take_memory(Request(message.request), payload, message.fds)
            case int():
                self._take_number(message, payload)
            case None if message.request in (Request.RESET_OWNER, Request.RESET_DEVICE):
                for ring in self.rings:
                    ring.drop()
                    ring.enabled = False

    def answer(self, request: int) -> int:
        """Return the number that a request asks for."""
        return {
            Request.GET_FEATURES: self.offer,
            Request.GET_PROTOCOL_FEATURES: int(self.protocol_offer),
            Request.GET_QUEUE_NUM: self.queue_pairs,
            Request.GET_MAX_MEM_SLOTS: MEMORY_SLOTS,
        }[Request(request)]

    def halt(self, index: int) -> None:
        """Stop a ring: it is not complete any more (rule: GET_VRING_BASE drops kick and call)."""
        self._ring(index).drop()

    def base(self, index: int) -> int:
        """Return where a ring that was stopped goes on: behind what was used, as its memory says."""
        ring = self._ring(index)
        if ring.address is None or not ring.size:
            return ring.base
        try:
            used = self._offset(ring.address.used, 6 + 8 * ring.size)
        except RefusedError:
            return ring.base
        ring.address = None
        (ring.base,) = struct.unpack_from("<2xH", os.pread(self.ram, 4, used))
        return ring.base

    # Section: what there is to work with

    @property
    def is_partial(self) -> bool:
        """Whether more may be about to come: rings that were started and not enabled, or with MQ not yet started."""
        if self.features & Feature.MQ and any(ring.kick is None for ring in self.rings):
            return True
        return any(ring.kick is not None and not self._is_enabled(ring) for ring in self.rings)

    def vrings(self) -> VringSet | None:
        """Return what works now; None while something is missing. RefusedError if it cannot be worked.

        Pairs count from the first: a guest that uses fewer than it could leaves the last ones disabled.
        """
        if any(ring.kick is not None and not ring.is_complete for ring in self.rings):
            return None
        wired: list[Vring] = []
        for pair in range(self.queue_pairs):
            both = self.rings[2 * pair : 2 * pair + 2]
            if not all(ring.is_complete and self._is_enabled(ring) for ring in both):
                break
            wired += [self._wired(2 * pair + number, ring) for number, ring in enumerate(both)]
        if not wired:
            return None
        return VringSet(
            features=self.features & ~int(Feature.PROTOCOL_FEATURES), regions=self._peer_regions(), rings=tuple(wired)
        )

    def _is_enabled(self, ring: Ring) -> bool:
        return ring.enabled or not self.features & Feature.PROTOCOL_FEATURES

    def _wired(self, index: int, ring: Ring) -> Vring:
        assert ring.address is not None
        assert ring.kick is not None
        assert ring.call is not None
        offsets = {}
        parts = {"desc": (16 * ring.size, 16), "avail": (6 + 2 * ring.size, 2), "used": (6 + 8 * ring.size, 4)}
        for part, (length, alignment) in parts.items():
            try:
                offsets[part] = self._offset(getattr(ring.address, part), length)
            except RefusedError as error:
                raise RefusedError(f"ring {index}: {part}: {error}") from error
            if offsets[part] % alignment:
                raise RefusedError(f"ring {index}: {part}: {offsets[part]:#x} is no multiple of {alignment}")
        return Vring(**offsets, size=ring.size, kick=ring.kick, call=ring.call)

    def _offset(self, user: int, length: int) -> int:
        """Translate an address of QEMU's to an offset in the RAM's file."""
        for region in self.regions:
            inside = user - region.user
            if 0 <= inside <= region.size - length:
                return region.offset + inside
        raise RefusedError(f"{length} bytes at {user:#x} are not in `{self.ram_name}`")

    def _peer_regions(self) -> tuple[PeerRegion, ...]:
        """Return the RAM for the other guest; pieces that continue each other as one."""
        _check_ram(self.ram_name, self.regions, self.foreign)
        merged: list[PeerRegion] = []
        for region in sorted(self.regions, key=lambda region: region.address):
            last = merged[-1] if merged else None
            if last and (last.address + last.size, last.offset + last.size) == (region.address, region.offset):
                merged[-1] = PeerRegion(address=last.address, size=last.size + region.size, offset=last.offset)
            else:
                merged.append(PeerRegion(address=region.address, size=region.size, offset=region.offset))
        if len(merged) > MAX_REGIONS:
            raise RefusedError(f"the memory is in {len(merged)} pieces, more than {MAX_REGIONS}")
        return tuple(merged)

    # Section: what is told

    def _take_number(self, message: Message, number: int) -> None:
        if message.request == Request.SET_FEATURES:
            if more := number & ~self.offer:
                raise RefusedError(f"{message.name} has {more:#x}, which was not offered")
            self.features = number
        else:
            if more := number & ~int(self.protocol_offer):
                raise RefusedError(f"{message.name} has {more:#x}, which was not offered")
            self.protocol = number

    def _ring(self, index: int) -> Ring:
        if index >= len(self.rings):
            raise RefusedError(f"there is no ring {index} of {len(self.rings)}")
        return self.rings[index]

    def _take_ring(self, message: Message, payload: RingState | RingAddress | RingFd) -> None:
        ring = self._ring(payload.index)
        match payload:
            case RingState(value=value):
                self._take_value(message, ring, value)
            case RingAddress():
                ring.address = payload
            case RingFd() if message.request == Request.SET_VRING_ERR:
                pass  # nobody has an error to tell
            case RingFd():
                self._take_eventfd(message, ring, message.fds[0] if payload.has_fd else None)

    def _take_value(self, message: Message, ring: Ring, value: int) -> None:
        match message.request:
            case Request.SET_VRING_NUM:
                if not 0 < value <= LARGEST_RING or value & (value - 1):
                    raise RefusedError(f"{message.name}: {value} is no size of a ring")
                ring.size = value
            case Request.SET_VRING_BASE:
                ring.base = value & 0xFFFF
            case Request.SET_VRING_ENABLE:
                if value > 1:
                    raise RefusedError(f"{message.name}: {value} is neither 0 nor 1")
                ring.enabled = bool(value)

    def _take_eventfd(self, message: Message, ring: Ring, fd: int | None) -> None:
        kick = message.request == Request.SET_VRING_KICK
        if fd is None and kick:
            raise RefusedError(f"{message.name} wants the ring to be polled")
        new = _eventfd(message, fd) if fd is not None else self._polled()
        old = ring.kick if kick else ring.call
        if old is not None:
            os.close(old.fd)
        if kick:
            ring.kick = new
        else:
            ring.call = new

    def _polled(self) -> Eventfd:
        """Return the call of a ring whose front-end polls it (bit 8 of SET_VRING_CALL, vhost-user.rst)."""
        if self._unheard is None:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            id_ = eventfd_id(os.getpid(), fd)
            assert id_ is not None
            self._unheard = Eventfd(id=id_, fd=fd)
        return Eventfd(id=self._unheard.id, fd=os.dup(self._unheard.fd))

    def _take_memory(self, request: Request, given: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        if request == Request.REM_MEM_REG:
            (gone,) = given
            # What continues elsewhere in its file is another region; one that is not there is gone already.
            self.regions = [region for region in self.regions if not _same_place(region, gone)]
            self.foreign = [each for each in self.foreign if not _same_place(each.region, gone)]
            return
        regions, foreign = self._sorted_out(given, fds)
        if request == Request.ADD_MEM_REG:
            regions = [*self.regions, *(new for new in regions if new not in self.regions)]
            foreign = [*self.foreign, *(new for new in foreign if new not in self.foreign)]
            if len(regions) + len(foreign) > MEMORY_SLOTS:
                raise RefusedError(f"there are {MEMORY_SLOTS} regions already")
        else:
            _check_ram(self.ram_name, regions, foreign)
        self.regions, self.foreign = regions, foreign

    def _sorted_out(
        self, given: Sequence[MemoryRegion], fds: Sequence[int]
    ) -> tuple[list[MemoryRegion], list[_Foreign]]:
        """Return which regions are RAM, by their files, and which are not."""
        ram = os.fstat(self.ram)
        regions, foreign = [], []
        for region, fd in zip(given, fds, strict=True):
            there = os.fstat(fd)
            if (there.st_dev, there.st_ino) != (ram.st_dev, ram.st_ino):
                foreign.append(_Foreign(region=region, known=self.known(there)))
            elif region.offset + region.size > ram.st_size:
                raise RefusedError(f"`{self.ram_name}` has no {region.size:#x} bytes at {region.offset:#x}")
            else:
                regions.append(region)
        return regions, foreign


def _same_place(one: MemoryRegion, other: MemoryRegion) -> bool:
    """Whether two are the same region; the offset is not told of one that goes (QEMU before 8.0)."""
    return (one.address, one.size, one.user) == (other.address, other.size, other.user)


def _check_ram(name: str, regions: Sequence[MemoryRegion], foreign: Sequence[_Foreign]) -> None:
    """See that the guest's RAM is in one file. RefusedError otherwise.

    A region of another file is a device's, unless it continues RAM where no device's memory can be: below 4 GiB, or
    at an address that is no multiple of its size.
    """
    if not regions:
        raise RefusedError(f"no part of the memory is `{name}`: the VM was not started with it")
    ends = {region.address + region.size for region in regions} | {0}
    for region in (each.region for each in foreign if not each.known):
        if region.address in ends and (region.address < _FOUR_GIB or region.address % region.size):
            raise RefusedError(f"memory at {region.address:#x} is not in `{name}`: the VM's RAM is in several files")


def _eventfd(message: Message, fd: int) -> Eventfd:
    """Return a duplicate of an eventfd; RefusedError if it is something else."""
    id_ = eventfd_id(os.getpid(), fd)
    if id_ is None:
        raise RefusedError(f"{message.name}: its descriptor is no eventfd")
    # Its writers should not be made to wait. QEMU's are so already, and can be changed back: see `bells`.
    os.set_blocking(fd, False)
    return Eventfd(id=id_, fd=os.dup(fd))
