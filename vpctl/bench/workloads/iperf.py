"""iperf3 in both guests: its command lines, and its JSON, also where that is damaged. Pure, but for `run`.

Known of iperf3 up to 3.12: `-nan` where something was divided by nothing, JSON cut off when it is killed, an `error`
key whatever the exit code. Its totals of the receiving side come from the receiver, over the control connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vpctl.bench.counters import GuestEnd
from vpctl.bench.guest import last_line
from vpctl.bench.workload import WorkloadError

LISTENING = "Server listening"

LARGEST = (1 << 63) - 1
"""Of anything that is counted."""

_NOT_A_NUMBER = re.compile(r"(?<=[:\s\[,])-?(?:nan|inf)(?=[\s,\]}])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """One direction of a test, as the receiver counted it."""

    octets: int
    """Payload bytes received."""
    seconds: float
    packets: int = 0
    """UDP: datagrams received."""
    lost: int = 0
    """UDP: numbers that are missing among those that the receiver saw."""
    sent_octets: int = 0
    sent_seconds: float = 0.0
    retransmits: int = 0

    @property
    def mbit(self) -> float:
        """Throughput in Mbit/s."""
        return self.octets * 8 / self.seconds / 1e6

    @property
    def sent_mbit(self) -> float:
        """What the sender sent, in Mbit/s."""
        return self.sent_octets * 8 / self.sent_seconds / 1e6 if self.sent_seconds else 0.0

    @property
    def loss_percent(self) -> float:
        """UDP: lost of what the receiver knows of; what was still under way at the end counts for nothing."""
        known = self.packets + self.lost
        return 100.0 * self.lost / known if known else 100.0


def server_command(*, address: str, port: int, seconds: float) -> str:
    """Return a server for one test, that ends by itself even if nobody comes."""
    return f"exec timeout {seconds:.0f} iperf3 -s -1 -B {address} -p {port} --forceflush"


def client_command(*, source: str, target: str, port: int, seconds: int, options: str = "") -> str:
    """Return a client that sends from address `source` to `target`."""
    command = f"iperf3 -c {target} -B {source} -p {port} -t {seconds} -J"
    return f"{command} {options}".rstrip()


def parse(text: str) -> Mapping[str, Any]:
    """Return the `end` of iperf3's JSON; WorkloadError if it is damaged, or says that the test failed."""
    begin = text.find("{")
    if begin < 0:
        raise WorkloadError(f"iperf3 wrote no JSON: {text.strip()[-200:] or 'nothing at all'}")
    try:
        data = json.loads(_NOT_A_NUMBER.sub("null", text[begin:]))
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"iperf3's JSON is damaged: {error}") from error
    if data.get("error"):
        raise WorkloadError(f"iperf3: {data['error']}")
    end = data.get("end")
    if not isinstance(end, dict) or not end:
        raise WorkloadError("iperf3's JSON has no totals")
    return end


def flow(end: Mapping[str, Any], *, reverse: bool = False) -> Flow:
    """Return one direction: client to server, or (`--bidir`) server to client. WorkloadError if nothing arrived."""
    suffix = "_bidir_reverse" if reverse else ""
    received, sent = end.get(f"sum_received{suffix}"), end.get(f"sum_sent{suffix}")
    if not isinstance(received, dict) or not isinstance(sent, dict):
        raise WorkloadError("iperf3's JSON has no totals of the receiver")
    octets, seconds = int(_number(received, "bytes")), _number(received, "seconds")
    if not octets or not seconds:
        raise WorkloadError("iperf3's receiver has received nothing")
    lost = int(_number(received, "lost_packets"))
    return Flow(
        octets=octets,
        seconds=seconds,
        packets=max(0, int(_number(received, "packets")) - lost),
        lost=lost,
        sent_octets=int(_number(sent, "bytes")),
        sent_seconds=_number(sent, "seconds"),
        retransmits=int(_number(sent, "retransmits")),
    )


def _number(totals: Mapping[str, Any], key: str) -> float:
    """Return a number that counts something; 0 if it is not there, or was nothing divided by nothing."""
    value = totals.get(key)
    if value is None:
        return 0
    if not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise WorkloadError(f"iperf3 says {value!r} of {key}")
    return value


async def run(source: GuestEnd, target: GuestEnd, *, seconds: int, options: str = "") -> Mapping[str, Any]:
    """Run one test from source to target; return iperf3's totals. Raises WorkloadError, GuestSshError."""
    port = target.guest.port()
    server = server_command(address=target.address, port=port, seconds=seconds + 20)
    client = client_command(source=source.address, target=target.address, port=port, seconds=seconds, options=options)
    async with target.guest.serving(server, what="iperf3's server", ready=LISTENING, seconds=seconds + 20):
        done = await source.guest.run(f"exec timeout {seconds + 15} {client}", seconds=seconds + 15)
        if done.status != 0 and "{" not in done.stdout:
            raise WorkloadError(f"{source.vm}: iperf3 failed with exit code {done.status}: {last_line(done)}")
        return parse(done.stdout)
