"""What the interfaces at both ends of a link count, and what that confirms."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import Inside, logged_in, made_guest, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.counters import COUNTERS, Counters, GuestEnd, Traffic, confirm, counted, parse_counters
from vpctl.errors import VerificationError
from vpctl.guest.ssh import GuestSshError
from vpctl.process import ProcessId
from vpctl.rundir import RunDir


def made_counters(*values: int, interface: int = 2) -> Counters:
    """Return counters in their order, the rest 0."""
    return parse_counters(" ".join(map(str, [interface, *values, *[0] * (len(COUNTERS) - len(values))])))


def test_counters_are_those_of_their_files() -> None:
    counters = parse_counters("3\n10\n1000\n1\n20\n2000\n2\n")
    assert counters == Counters(
        interface=3, rx_packets=10, rx_bytes=1000, rx_dropped=1, tx_packets=20, tx_bytes=2000, tx_dropped=2
    )
    assert counters.since(made_counters(4, 400, interface=3)).rx_packets == 6


def test_an_interface_that_was_plugged_anew_is_another_one_whatever_it_has_counted() -> None:
    with pytest.raises(VerificationError, match="the interface was replaced"):
        made_counters(900, 9000, interface=3).since(made_counters(100, 1000, interface=2))


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_counters_that_go_backwards_are_an_error_and_never_a_difference(before: list[int], after: list[int]) -> None:
    if all(new >= old for new, old in zip(after, before, strict=True)):
        difference = made_counters(*after).since(made_counters(*before))
        assert difference == made_counters(*(new - old for new, old in zip(after, before, strict=True)))
    else:
        with pytest.raises(VerificationError, match=r"(rx|tx)_\w+ went backwards, by [1-5]"):
            made_counters(*after).since(made_counters(*before))


async def test_the_question_for_counters_is_one_that_a_shell_answers(rundir: RunDir) -> None:
    async def by_a_real_shell(script: str, process: Process) -> int:
        shell = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.PIPE)
        output, _ = await shell.communicate()
        process.stdout.write(output.decode())
        return 0

    class Real(Inside):
        async def run(self, script: str, process: Process) -> int:
            return await by_a_real_shell(script, process)

    async with logged_in(rundir, Real("vm1")) as guest:
        end = made_link("lan0", "vm1", "vm2").end_of("vm1")
        counters = await GuestEnd(guest=guest, end=end, link="lo").counters()
        with pytest.raises(VerificationError, match="`vm1` has no interface `nosuch0`") as caught:
            await GuestEnd(guest=guest, end=end, link="nosuch0").counters()
    assert counters.interface == 1
    assert counters.rx_packets == counters.tx_packets  # a loopback gets what it sends
    assert caught.value.hint == "vpctl status"


async def test_what_crosses_in_a_block_is_counted_at_both_ends(rundir: RunDir) -> None:
    async with world(rundir) as within:
        within.cross(packets=5, octets=500)  # before it
        async with counted(within.pair.first, within.pair.second) as traffic:
            within.cross(packets=10, octets=1500)
    assert traffic.source is not None
    assert traffic.target is not None
    assert (traffic.source.tx_packets, traffic.source.tx_bytes, traffic.source.rx_packets) == (10, 1500, 0)
    assert (traffic.target.rx_packets, traffic.target.rx_bytes, traffic.target.tx_packets) == (10, 1500, 0)


@pytest.mark.parametrize("side", ["vm1", "vm2"])
async def test_an_interface_that_is_replaced_in_a_block_is_told_with_its_vm(rundir: RunDir, side: str) -> None:
    async with world(rundir) as within:
        inside = within.vm1 if side == "vm1" else within.vm2
        with pytest.raises(VerificationError, match=f"`lan0` of `{side}`: the interface was replaced"):
            async with counted(within.pair.first, within.pair.second):
                inside.interface = 9
        with pytest.raises(VerificationError, match=f"`{side}` has no interface `lan0`"):
            async with counted(within.pair.first, within.pair.second):
                inside.interface = None


async def test_counters_of_a_guest_that_breaks_off_are_one_error_of_ours(rundir: RunDir) -> None:
    async with world(rundir) as within:
        with pytest.raises(GuestSshError, match="vm2: not logged in"):
            async with counted(within.pair.first, within.pair.second):
                await within.pair.second.guest.close()


SEEN = made_counters(1000, 100_000, 0, 1000, 100_000)
LESS = made_counters(970, 97_000, 0, 970, 97_000)


@pytest.mark.parametrize("told", [{"packets": 1000}, {"octets": 100_000}, {"packets": 1020, "octets": 102_000}, {}])
async def test_what_both_interfaces_counted_is_confirmed_though_some_is_in_a_ring_yet(told: dict[str, int]) -> None:
    source, target = ends()
    confirm(Traffic(source=SEEN, target=SEEN), source=source, target=target, **told)


@pytest.mark.parametrize("told", [{"packets": 1000}, {"octets": 100_000}])
@pytest.mark.parametrize(
    ("traffic", "blamed"),
    [
        (Traffic(source=LESS, target=SEEN), r"of `vm1` counted 970 packets, 97000 bytes \(tx\)"),
        (Traffic(source=SEEN, target=LESS), r"of `vm2` counted 970 packets, 97000 bytes \(rx\)"),
    ],
)
async def test_what_an_interface_did_not_see_is_no_figure_of_this_link(
    traffic: Traffic, blamed: str, told: dict[str, int]
) -> None:
    source, target = ends()
    with pytest.raises(VerificationError, match=f"{blamed}.*the figure is not of this link"):
        confirm(traffic, source=source, target=target, **told)


def ends() -> tuple[GuestEnd, GuestEnd]:
    """Return the ends of a link of guests that nobody is logged in to."""
    link = made_link("lan0", "vm1", "vm2")
    one, two = (
        GuestEnd(guest=made_guest(end.vm, ProcessId(pid=1, start_time=1)), end=end, link="lan0")
        for end in link.endpoints
    )
    return one, two
