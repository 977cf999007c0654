"""Checks and probes: judged from what both agents say, whatever they say."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.broker import made
from tests.fakes.guest import Process, guest_running
from tests.made import PAIR, made_link
from vpctl.guest import ssh, traffic
from vpctl.guest.ssh import Completed, GuestSshError
from vpctl.guest.traffic import CheckTest, check_plan, counters_disagree, frame_sizes, judge
from vpctl.rundir import Directories, RunDir

PLAN = "frame:60x8,frame:1514x8,udp:1x4,tcp:65536x1"
COUNTS = {("frame", 60): 8, ("frame", 1514): 8, ("udp", 1): 4, ("tcp", 65536): 1}
OCTETS = 60 * 8 + 1514 * 8 + 4 + 65536


def counted_tests(plan: str) -> list[tuple[str, int, int]]:
    """Return protocol, size and count of each test in a plan."""
    parts = [part.replace(":", "x").split("x") for part in plan.split(",")]
    return [(protocol, int(size), int(count)) for protocol, size, count in parts]


def reports(plan: str = PLAN) -> tuple[Any, Any]:
    """Return what both agents say of a direction without loss."""
    counted = counted_tests(plan)
    octets = sum(size * count for _, size, count in counted)
    packets = sum(count for _, _, count in counted)
    sent = [{"protocol": p, "size": s, "sent": c} for p, s, c in counted]
    received = [{"protocol": p, "size": s, "received": c, "corrupt": 0, "duplicate": 0} for p, s, c in counted]
    return (
        {"tests": sent, "counters": {"tx_packets": packets, "tx_bytes": octets}},
        {"tests": received, "counters": {"rx_packets": packets, "rx_bytes": octets}},
    )


def said(report: object) -> Completed:
    return Completed(status=0, stdout=f"ready\n{json.dumps(report)}\n", stderr="")


def judged(sent: object, received: object) -> list[CheckTest]:
    return judge("a", "b", PLAN, said(sent), said(received))


def test_everything_that_arrived_intact_is_ok_and_in_the_plans_order() -> None:
    tests = judged(*reports())
    assert [(test.protocol, test.size, test.sent) for test in tests] == counted_tests(PLAN)
    assert all(test.ok for test in tests)
    assert tests[0].as_json() == {
        **{"from": "a", "to": "b", "protocol": "frame", "size": 60},
        **{"sent": 8, "received": 8, "corrupt": 0, "ok": True},
    }


@given(
    st.sampled_from(list(COUNTS)),
    st.sampled_from(["received", "corrupt"]),
    st.integers(-3, 10),
)
def test_one_that_is_lost_or_corrupt_or_too_much_fails_its_test_alone(
    which: tuple[str, int], key: str, value: int
) -> None:
    sent, received = reports()
    entry = next(test for test in received["tests"] if (test["protocol"], test["size"]) == which)
    well = entry[key] == value
    entry[key] = value
    assert {(test.protocol, test.size): test.ok for test in judged(sent, received)} == {
        **dict.fromkeys(COUNTS, True),
        which: well,
    }


@pytest.mark.parametrize("side", [0, 1])
def test_what_one_agent_does_not_speak_of_has_failed(side: int) -> None:
    both = reports()
    del both[side]["tests"][2]
    assert [test.ok for test in judged(*both)] == [True, True, False, True]


@pytest.mark.parametrize(
    ("side", "counter", "least"),
    [
        (0, "tx_packets", 16),
        (0, "tx_bytes", OCTETS),
        (1, "rx_packets", 16),
        (1, "rx_bytes", OCTETS),
    ],
)
def test_the_interfaces_own_counters_must_confirm_every_frame_and_every_byte(
    side: int, counter: str, least: int
) -> None:
    both = reports()
    both[side]["counters"][counter] = least
    assert counters_disagree(*both) == ""
    both[side]["counters"][counter] = least - 1
    name = ("sender", "receiver")[side]
    assert counters_disagree(*both).startswith(f"the {name}'s interface counted ")
    assert not any(test.ok for test in judged(*both))


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["tests", "counters", "protocol", "size", "sent", "received", "tx_packets", "tx_bytes"]),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(VALUE | st.just(reports()[0]), VALUE | st.just(reports()[1]), st.text())
def test_whatever_the_agents_say_is_judged_and_only_a_whole_report_is_ok(
    sent: object, received: object, stderr: str
) -> None:
    tests = judge("a", "b", PLAN, said(sent), Completed(status=1, stdout=json.dumps(received), stderr=stderr))
    assert len(json.dumps([test.as_json() for test in tests])) > 0
    assert {(test.protocol, test.size): test.ok for test in tests} == dict.fromkeys(
        COUNTS, (sent, received) == reports()
    )


@given(st.integers(68, 65535))
def test_frames_go_from_the_smallest_to_the_mtus_largest(mtu: int) -> None:
    sizes = frame_sizes(mtu)
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (60, mtu + 14)
    protocols = {
        protocol: [s for p, s, _ in counted_tests(check_plan(mtu)) if p == protocol] for protocol in ("udp", "tcp")
    }
    assert min(protocols["udp"]) == 1
    assert len(set(protocols["udp"])) == len(protocols["udp"])
    fragments = -(-(max(protocols["udp"]) + 8) // ((mtu - 20) // 8 * 8))
    assert fragments == 128 if mtu < 532 else max(protocols["udp"]) == 65507
    assert protocols["tcp"] == ([65536] if mtu >= 88 else []), "Linux sends no smaller segments"


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


Script = Callable[[Process, list[str]], Awaitable[None]]


async def both_guests(rundir: RunDir, script: Script, act: Callable[..., Awaitable[Any]]) -> Any:
    """Do something to the two guests of a link, both of which answer by a script."""

    async def answer(process: Process) -> None:
        await script(process, shlex.split(process.command or ""))

    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        one, two = (traffic.Guest(end=end, ssh=connection, agent="/a") for end in PAIR.link("lan0").endpoints)
        async with asyncio.timeout(10):
            return await act(PAIR.link("lan0"), one, two)


async def test_a_link_is_checked_in_both_directions_the_sender_after_the_receiver(rundir: RunDir) -> None:
    commands: list[list[str]] = []

    now = "02:00:00:00:00:99"

    async def agent(process: Process, words: list[str]) -> None:
        commands.append(words)
        sent, received = reports(words[words.index("--plan") + 1])
        if words[1] == "recv":
            await asyncio.sleep(0.05)
            assert len(commands) % 2 == 1  # no sender before `ready`
            # An agent of an earlier version does not tell its MAC.
            process.stdout.write("ready\n" if len(commands) == 1 else f"ready {now}\n")
            process.stdout.write(json.dumps(received) + "\n")
        else:
            process.stdout.write(json.dumps(sent) + "\n")
        process.exit(0)

    entry = await both_guests(rundir, agent, traffic.check_link)
    assert entry["ok"] is True
    assert {(test["from"], test["to"]) for test in entry["tests"]} == {("vm1", "vm2"), ("vm2", "vm1")}
    link = PAIR.link("lan0")
    assert [words[1] for words in commands] == ["recv", "send"] * 2
    assert [words[3:5] for words in commands[1::2]] == [
        [str(link.end_of("vm2").address.ip), link.end_of("vm2").mac],
        [str(link.end_of("vm1").address.ip), now],
    ]
    seeds = [words[words.index("--seed") + 1] for words in commands]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


async def test_a_receiver_to_which_nothing_was_sent_is_not_waited_for(rundir: RunDir) -> None:
    async def agent(process: Process, words: list[str]) -> None:
        if words[1] == "recv":
            process.stdout.write("ready\n")
            await asyncio.sleep(1000)
        counted = counted_tests(words[words.index("--plan") + 1])
        tests = [{"protocol": p, "size": s, "sent": 0, "error": "No such device"} for p, s, _ in counted]
        process.stdout.write(json.dumps({"tests": tests, "counters": {}}) + "\n")
        process.exit(1)

    entry = await both_guests(rundir, agent, traffic.check_link)
    assert entry["ok"] is False
    assert {test["reason"] for test in entry["tests"]} == {"vm1: No such device", "vm2: No such device"}


@pytest.mark.parametrize("breaks", ["recv", "send"])
async def test_a_guest_that_breaks_off_in_the_middle_of_a_check_is_one_error_of_ours(
    rundir: RunDir, breaks: str
) -> None:
    async def agent(process: Process, words: list[str]) -> None:
        if words[1] == breaks:
            process.channel.get_connection().abort()
        process.stdout.write("ready\n")
        await asyncio.sleep(1000)

    with pytest.raises(GuestSshError, match="the connection broke"):
        await both_guests(rundir, agent, traffic.check_link)


async def test_an_agent_that_cannot_even_begin_is_told_in_its_own_words(rundir: RunDir) -> None:
    async def agent(process: Process, words: list[str]) -> None:
        process.stderr.write(f"vpctl-agent {words[1]}: lan0: No such device")
        process.exit(1)

    entry = await both_guests(rundir, agent, traffic.check_link)
    assert entry["ok"] is False
    for test in entry["tests"]:
        assert (test["sent"], test["received"], test["ok"]) == (0, 0, False)
        assert "lan0: No such device" in test["reason"]


@pytest.mark.parametrize(
    ("stdout", "status", "expected"),
    [
        ('{"ok": true, "loss_percent": 0.0, "rtt_ms": 1.5, "corrupt": 0}', 0, (True, 0.0, 1.5, None)),
        ('{"ok": true, "loss_percent": 0.0, "rtt_ms": 1.5, "corrupt": 2}', 0, (False, 0.0, 1.5, "no intact reply")),
        ('{"ok": true, "loss_percent": 0.0, "rtt_ms": 1.5}', 1, (False, 0.0, 1.5, "no intact reply")),
        ('{"ok": false, "error": "no device"}', 1, (False, 100.0, None, "no device")),
        ("[]", 0, (False, 100.0, None, "the agent said '[]'")),
    ],
)
async def test_a_probe_is_ok_only_if_agent_status_and_contents_say_so(
    rundir: RunDir, stdout: str, status: int, expected: tuple[Any, ...]
) -> None:
    async def agent(process: Process, words: list[str]) -> None:
        assert words[:3] == ["/a", "probe", "lan0"]
        assert words[3:5] in [[str(end.address.ip), end.mac] for end in PAIR.link("lan0").endpoints]
        process.stdout.write(stdout)
        process.exit(status)

    checks = await both_guests(rundir, agent, lambda link, one, two: traffic.probe_both_ways(link, one, two, count=3))
    for check in checks:
        assert (check["ok"], check["loss_percent"], check["rtt_ms"], check.get("reason")) == expected
    assert [(check["from"], check["to"]) for check in checks] == [("vm1", "vm2"), ("vm2", "vm1")]


def test_a_probe_that_failed_is_an_error_with_a_hint() -> None:
    error = traffic.no_packets(traffic.unanswered("lan0", "b", "a", "no intact reply"))
    assert error.message == "link `lan0`: no packets from `b` to `a`: no intact reply"
    assert error.hint == "vpctl check --link lan0"


def test_a_link_of_a_large_mtu_has_large_frames() -> None:
    assert f"frame:{9014}x8" in check_plan(made_link("x", "a", "b", mtu=9000).mtu)


NETEM = (
    "qdisc netem 8001: root refcnt 2 limit 1000 loss 100%\n4: lan0: <BROADCAST,UP> mtu 1500 qdisc netem state UP\n"
)
XDP = "qdisc noqueue 0: root\n4: lan0: <BROADCAST,UP> mtu 1500 xdpgeneric qdisc noqueue\n    prog/xdp id 7 tag 3b18\n"
CLSACT = (
    "qdisc fq_codel 0: root refcnt 2\nqdisc clsact ffff: parent ffff:fff1\n4: lan0: <UP> mtu 1500 qdisc fq_codel\n"
)
PLAIN = "qdisc fq_codel 0: root refcnt 2 limit 10240p\n4: lan0: <UP,LOWER_UP> mtu 1500 qdisc fq_codel state UP\n"


@pytest.mark.parametrize(
    ("text", "found"), [(NETEM, {"netem"}), (XDP, {"prog/xdp"}), (CLSACT, {"clsact"}), (PLAIN, set()), ("", set())]
)
async def test_what_may_drop_a_links_packets_is_found(rundir: RunDir, text: str, found: set[str]) -> None:
    async def shell(process: Process, words: list[str]) -> None:
        assert "tc qdisc show dev lan0" in words[-1]
        process.stdout.write(text)
        process.exit(0 if text else 127)

    async def look(link: Any, one: traffic.Guest, _: traffic.Guest) -> frozenset[str]:
        return await traffic.filters(link.name, one)

    assert await both_guests(rundir, shell, look) == found
