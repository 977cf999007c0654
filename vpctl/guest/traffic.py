"""Traffic between guests, by the agent in each: quick probes, and the full check with contents compared."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpctl.errors import VerificationError, VpctlError, cause_of
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.reports import Report, ReportError, SizeReport, decode
from vpctl.topology.model import Endpoint, LinkSpec

if TYPE_CHECKING:
    import asyncssh

PROBE_SECONDS = 10.0
"""For the first packet over a link that was just plugged: the guest has to find the device and address it."""

CHECK_SECONDS = 60.0
"""For one direction of the full check; under TCG it takes about two."""

MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")

ETHERNET_HEADER = 14
IP_HEADER = 20
UDP_HEADER = 8
UDP_SIZES = (1, 64, 512, 1472, 1473, 8192, 65507)
"""Payloads in bytes: the least and the most that UDP over IPv4 carries, and both sides of the first fragment."""

MAX_FRAGMENTS = 128
"""Of a datagram that a check sends: what is on its way at once has to fit into a device's ring."""

TCP_BYTES = 65536
MIN_TCP_MTU = 88
"""Linux sends no TCP segment with less than 48 bytes of data (`net.ipv4.tcp_min_snd_mss`), and 40 of headers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """A guest at one end of a link, and the way into it."""

    end: Endpoint
    ssh: asyncssh.SSHClientConnection
    agent: str
    """The agent's path in the guest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckTest:
    """One size of one protocol in one direction: messages sent, received once, and received with wrong contents."""

    from_: str
    to: str
    protocol: str
    size: int
    sent: int
    received: int
    corrupt: int
    reason: str = ""
    """Why a test is not ok although its messages came."""

    @property
    def ok(self) -> bool:
        return self.sent > 0 and self.received == self.sent and self.corrupt == 0 and not self.reason

    def as_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"from": self.from_, "to": self.to, "protocol": self.protocol, "size": self.size}
        entry |= {"sent": self.sent, "received": self.received, "corrupt": self.corrupt, "ok": self.ok}
        return entry | ({"reason": self.reason} if self.reason else {})


NO_ANSWER = "no answer"
"""The agent's word for a probe that has asked for all of its time, over an interface that is there, in vain."""


async def probe(
    link: str, source: Guest, target: Endpoint, *, count: int, seconds: float = PROBE_SECONDS
) -> dict[str, Any]:
    """Send numbered, patterned echo requests until one comes back intact, within `seconds`, then `count` more.

    Each is sent as ICMP and as a frame to the peer's agent, which answers for a guest that answers no ICMP.
    Returns an entry of `up`'s `checks`: {"link", "from", "to", "ok", "loss_percent", "rtt_ms"}.
    """
    argv = [source.agent, "probe", link, str(target.address.ip), target.mac, "--count", str(count)]
    argv += ["--timeout-ms", f"{seconds * 1000:.0f}"]
    try:
        done = await guest_ssh.run(source.ssh, argv, vm=source.end.vm, timeout=seconds + 10)
        result = decode(done.stdout)
    except VpctlError as error:
        return unanswered(link, source.end.vm, target.vm, str(error))
    ok = done.status == 0 and bool(result.get("ok")) and not result.get("corrupt")
    entry: dict[str, Any] = {"link": link, "from": source.end.vm, "to": target.vm, "ok": ok}
    entry |= {"loss_percent": result.get("loss_percent", 100.0), "rtt_ms": result.get("rtt_ms")}
    return entry if ok else entry | {"reason": result.get("error") or done.stderr.strip() or "no intact reply"}


def unanswered(link: str, source: str, target: str, reason: str) -> dict[str, Any]:
    """Return the entry of a probe to which no reply came."""
    entry: dict[str, Any] = {"link": link, "from": source, "to": target}
    return entry | {"ok": False, "loss_percent": 100.0, "rtt_ms": None, "reason": reason}


def not_provable(link: str, source: str, target: str, reason: str) -> dict[str, Any]:
    """Return the entry of a probe that could not be sent, for a reason that is no fault of the link's."""
    entry: dict[str, Any] = {"link": link, "from": source, "to": target}
    return entry | {"ok": True, "loss_percent": None, "rtt_ms": None, "not_provable": reason}


FILTERS = frozenset({"netem", "ingress", "clsact", "prog/xdp"})
"""What tc and ip call it where a user has something look at a link's packets, which may drop them."""


async def filters(link: str, guest: Guest) -> frozenset[str]:
    """Return what a guest's user has put in the way of a link's packets: none where the guest does not tell."""
    look = f"tc qdisc show dev {link}; ip link show dev {link}"
    try:
        done = await guest_ssh.run(guest.ssh, ["sh", "-c", look], vm=guest.end.vm, timeout=PROBE_SECONDS)
    except VpctlError:
        return frozenset()
    return FILTERS & frozenset(done.stdout.split())


async def probe_both_ways(
    link: LinkSpec, first: Guest, second: Guest, *, count: int, seconds: float = PROBE_SECONDS
) -> list[dict[str, Any]]:
    """Probe a link in both directions at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                probe(link.name, source, target.end, count=count, seconds=seconds), name=f"probe-{link.name}"
            )
            for source, target in ((first, second), (second, first))
        ]
    return [task.result() for task in tasks]


def no_packets(check: Mapping[str, Any]) -> VerificationError:
    """Return the error of a probe that failed."""
    what = f"link `{check['link']}`: no packets from `{check['from']}` to `{check['to']}`"
    return VerificationError(
        f"{what}: {check['reason']}", hint=check.get("hint") or f"vpctl check --link {check['link']}"
    )


def frame_sizes(mtu: int) -> list[int]:
    """Return the sizes of whole frames (without FCS) that a check sends: 60 bytes to MTU + 14."""
    largest = mtu + ETHERNET_HEADER
    sizes = [size for size in (60, 61, 64, 128, 256, 512, 1024, 1280, 1514, 4096, 9014) if size < largest]
    return [*sizes, largest]


def udp_sizes(mtu: int) -> list[int]:
    """Return the payloads of a check's datagrams: from one byte to the most that `MAX_FRAGMENTS` carry."""
    fragment = (mtu - IP_HEADER) // 8 * 8
    most = min(UDP_SIZES[-1], MAX_FRAGMENTS * fragment - UDP_HEADER)
    return [*(size for size in UDP_SIZES if size < most), most]


def check_plan(mtu: int, *, frames_only: bool = False) -> str:
    """Return the agent's plan of one direction: protocol, size and count of each test that an MTU lets pass."""
    tests = [f"frame:{size}x8" for size in frame_sizes(mtu)]
    if frames_only:
        return ",".join(tests)
    tests += [f"udp:{size}x4" for size in udp_sizes(mtu)]
    tests += [f"tcp:{TCP_BYTES}x1"] if mtu >= MIN_TCP_MTU else []
    return ",".join(tests)


async def check_direction(
    link: LinkSpec, source: Guest, target: Guest, *, frames_only: bool = False
) -> list[CheckTest]:
    """Check one direction of a link: contents compared, bound to the interface, confirmed by its counters."""
    plan = check_plan(link.mtu, frames_only=frames_only)
    # A seed of its own per direction, so that no leftover of another one can pass for this.
    seed = str(zlib.crc32(f"{link.name}/{source.end.vm}/{asyncio.get_running_loop().time()}".encode()))
    limit = f"{CHECK_SECONDS * 1000:.0f}"
    ready = asyncio.Event()
    mac = target.end.mac
    receive = [target.agent, "recv", link.name, "--plan", plan, "--seed", seed, "--timeout-ms", limit]

    def heard(line: str) -> None:
        nonlocal mac
        if (word := line.split())[:1] == ["ready"]:
            # The MAC that the receiver has now, which a user or a bond may have changed.
            mac = word[1] if len(word) == 2 and MAC.fullmatch(word[1]) else mac
            ready.set()

    async def sender() -> guest_ssh.Completed:
        await ready.wait()
        if receiving.done():
            return NOTHING  # the receiver was not there: `judge` says why
        send = [source.agent, "send", link.name, str(target.end.address.ip), mac, "--plan", plan, "--seed", seed]
        done = await guest_ssh.run(source.ssh, send, vm=source.end.vm, timeout=CHECK_SECONDS)
        if why_nothing_was_sent(done):
            receiving.cancel()  # it would wait for all of its time
        return done

    try:
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(
                guest_ssh.run(target.ssh, receive, vm=target.end.vm, timeout=CHECK_SECONDS + 10, on_line=heard),
                name=f"check-recv-{link.name}",
            )
            # A receiver that fails must not leave the sender waiting.
            receiving.add_done_callback(lambda _: ready.set())
            sending = group.create_task(sender(), name=f"check-send-{link.name}")
    except ExceptionGroup as failed:
        raise cause_of(failed) from failed
    received = NOTHING if receiving.cancelled() else receiving.result()
    return judge(source.end.vm, target.end.vm, plan, sending.result(), received)


NOTHING = guest_ssh.Completed(status=1, stdout="", stderr="")
"""What is left of a command that did not run, or was ended."""


def why_nothing_was_sent(sending: guest_ssh.Completed) -> str:
    """Return why a sender has sent no message at all, in its own words; empty if it has, or does not tell."""
    try:
        tests = decode(sending.stdout)["tests"]
        if any(test["sent"] for test in tests):
            return ""
        return next((test["error"] for test in tests if "error" in test), "nothing was sent")
    except (ReportError, KeyError):
        return sending.stderr.strip()


def judge(
    source: str, target: str, plan: str, sending: guest_ssh.Completed, receiving: guest_ssh.Completed
) -> list[CheckTest]:
    """Return the tests of a direction from what both agents reported."""
    counts: dict[tuple[str, int], int] = {}
    seen: dict[tuple[str, int], SizeReport] = {}
    try:
        sent, received = decode(sending.stdout), decode(receiving.stdout)
        counts = {(t["protocol"], t["size"]): t["sent"] for t in sent["tests"]}
        seen = {(t["protocol"], t["size"]): t for t in received["tests"]}
        reason = counters_disagree(sent, received)
    except (ReportError, KeyError):
        why = why_nothing_was_sent(sending)
        reason = f"{source}: {why}" if why and receiving is NOTHING else ""
        reason = reason or (sending.stderr + receiving.stderr).strip() or "the agent reported nothing"
    tests = []
    for part in plan.split(","):
        protocol, size = part.split("x")[0].split(":")
        arrival = seen.get((protocol, int(size)), SizeReport())
        tests.append(
            CheckTest(
                from_=source,
                to=target,
                protocol=protocol,
                size=int(size),
                sent=counts.get((protocol, int(size)), 0),
                received=arrival.get("received", 0),
                corrupt=arrival.get("corrupt", 0),
                reason=reason,
            )
        )
    return tests


def counters_disagree(sent: Report, received: Report) -> str:
    """Return why the interfaces' own counters do not confirm the traffic, or nothing.

    Both count packets that are not ours as well, so they are lower bounds: every raw frame is a packet of its own,
    and every payload byte crossed both interfaces.
    """
    frames = sum(test["sent"] for test in sent["tests"] if test["protocol"] == "frame")
    octets = sum(test["sent"] * test["size"] for test in sent["tests"])
    for name, counters, direction in (("sender", sent, "tx"), ("receiver", received, "rx")):
        packets, size = counters["counters"][f"{direction}_packets"], counters["counters"][f"{direction}_bytes"]
        if packets < frames or size < octets:
            return f"the {name}'s interface counted {packets} packets, {size} bytes; {frames}, {octets} at least"
    return ""


async def check_link(link: LinkSpec, first: Guest, second: Guest, *, frames_only: bool = False) -> dict[str, Any]:
    """Check a link in both directions, one after the other; an entry of `check`'s `links`."""
    tests: list[CheckTest] = []
    for source, target in ((first, second), (second, first)):
        tests += await check_direction(link, source, target, frames_only=frames_only)
    return {"link": link.name, "ok": all(t.ok for t in tests), "tests": [test.as_json() for test in tests]}
