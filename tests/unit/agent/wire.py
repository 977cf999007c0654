"""The agent's message format, written a second time: what the C code sends must be what this says."""

from __future__ import annotations

import struct

MASK = (1 << 64) - 1
MAGIC = 0x76706331
HEADER = 20
WITH_HEADER = 28
ETHERTYPE = 0x88B5
END_TEST = 0xFFFFFFFF


def mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def message(seed: int, test: int, number: int, size: int) -> bytes:
    """Return a message of `size` bytes."""
    identity = seed << 32 | test
    base = mix(identity ^ mix(number))
    words = (mix((base + word) & MASK) for word in range(size // 8 + 1))
    pattern = b"".join(struct.pack("<Q", word) for word in words)[:size]
    if size >= WITH_HEADER:
        return struct.pack(">5I", MAGIC, seed, test, size, number) + pattern[HEADER:]
    return bytes([(number ^ mix(identity)) & 0xFF]) + pattern[1:]


def frame(to: bytes, source: bytes, payload: bytes) -> bytes:
    """Return an Ethernet frame of the check's type."""
    return to + source + struct.pack(">H", ETHERTYPE) + payload
