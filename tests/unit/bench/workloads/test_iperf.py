"""iperf3: what a real one wrote, whole, failed and damaged."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import World, recorded, says, serves, world
from tests.fakes.guest import Process
from vpctl.bench import guest
from vpctl.bench.workload import WorkloadError
from vpctl.bench.workloads import iperf
from vpctl.bench.workloads.iperf import Flow, client_command, flow, parse, server_command
from vpctl.errors import VerificationError
from vpctl.rundir import RunDir

WHOLE = ("iperf-tcp.json", "iperf-tcp-bidir.json", "iperf-udp-5M.json", "iperf-udp-unlimited-64B.json")


def totals(name: str) -> dict[str, Any]:
    """Return the `end` of a recorded test, to be changed."""
    end: dict[str, Any] = json.loads(recorded(name))["end"]
    return end


def test_a_tcp_stream_is_what_the_receiver_counted() -> None:
    read, end = flow(parse(recorded("iperf-tcp.json"))), totals("iperf-tcp.json")
    received, sent = end["sum_received"], end["sum_sent"]
    assert received["seconds"] != sent["seconds"]
    assert (read.octets, read.seconds) == (received["bytes"], received["seconds"])
    assert read.mbit == pytest.approx(received["bits_per_second"] / 1e6)
    assert read.sent_mbit == pytest.approx(sent["bits_per_second"] / 1e6)
    assert read.retransmits == sent["retransmits"]


def test_both_ways_at_once_are_two_flows_of_their_own() -> None:
    end = parse(recorded("iperf-tcp-bidir.json"))
    there, back = flow(end), flow(end, reverse=True)
    assert there.octets == end["sum_received"]["bytes"] < end["sum_sent"]["bytes"]
    assert back.octets == end["sum_received_bidir_reverse"]["bytes"]
    assert there != back


def test_a_test_of_one_direction_has_no_flow_back() -> None:
    with pytest.raises(WorkloadError, match="no totals of the receiver"):
        flow(parse(recorded("iperf-tcp.json")), reverse=True)


def test_a_rate_that_the_link_carries_loses_nothing() -> None:
    read = flow(parse(recorded("iperf-udp-5M.json")))
    assert (read.lost, read.loss_percent) == (0, 0.0)
    assert read.packets * 1472 == read.octets
    assert read.sent_mbit == pytest.approx(5, rel=0.02)


def test_under_overload_packets_are_those_received_and_loss_is_of_what_the_receiver_knows() -> None:
    read, end = flow(parse(recorded("iperf-udp-unlimited-64B.json"))), totals("iperf-udp-unlimited-64B.json")
    received = end["sum_received"]
    assert (read.packets, read.lost) == (11076, 11317)
    assert read.packets * 18 == read.octets == received["bytes"]
    assert read.packets + read.lost == received["packets"] < end["sum_sent"]["packets"]
    assert read.loss_percent == pytest.approx(100 * 11317 / 22393)
    assert read.sent_mbit > read.mbit


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iperf-refused.json", "unable to connect to server: Connection refused"),
        ("iperf-busy.json", "the server is busy running a test"),
        ("iperf-terminated.json", "interrupt - the client has terminated"),
        ("iperf-server-killed.json", "unable to write to stream socket: Connection reset by peer"),
        ("iperf-udp-none.json", "interrupt - the client has terminated"),
    ],
)
def test_a_test_that_failed_is_an_error_in_iperfs_own_words_whatever_totals_it_has(name: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=f"^iperf3: {message}"):
        parse(recorded(name))


@pytest.mark.parametrize("damage", ["-nan", "nan", "-inf", "inf", "NaN"])
def test_what_is_nothing_divided_by_nothing_is_left_out_and_the_rest_is_read(damage: str) -> None:
    end = totals("iperf-udp-5M.json")
    end["sum"]["lost_percent"] = end["sum_sent"]["jitter_ms"] = "@"
    damaged = json.dumps({"end": end}).replace('"@"', damage)
    assert damaged.count(damage) >= 2
    read = parse(damaged)
    assert read["sum"]["lost_percent"] is None
    assert flow(read) == flow(parse(recorded("iperf-udp-5M.json")))


@pytest.mark.parametrize("key", ["bytes", "seconds"])
@pytest.mark.parametrize("value", [0, None])
def test_a_receiver_that_got_nothing_is_no_figure(key: str, value: object) -> None:
    end = totals("iperf-tcp.json")
    end["sum_received"][key] = value
    with pytest.raises(WorkloadError, match="received nothing"):
        flow(end)


@pytest.mark.parametrize("value", ["12", [], -1, float("inf"), float("nan"), 10**400])
@pytest.mark.parametrize(
    ("of", "key"), [("sum_received", "bytes"), ("sum_received", "lost_packets"), ("sum_sent", "seconds")]
)
def test_what_cannot_be_a_count_is_told_with_its_name(of: str, key: str, value: object) -> None:
    end = totals("iperf-udp-5M.json")
    end[of][key] = value
    with pytest.raises(WorkloadError, match=rf"(?s)iperf3 says .* of {key}"):
        flow(end)


@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True))
def test_json_that_was_cut_off_anywhere_is_an_error(name: str, share: float) -> None:
    text = recorded(name).rstrip()
    with pytest.raises(WorkloadError, match=r"iperf3 wrote no JSON|iperf3's JSON is damaged"):
        parse(text[: int(len(text) * share)])


@pytest.mark.parametrize("text", ['{"a":' * 20_000, '{"a": ' + "9" * 5000 + "}", '{"end": {}}', '{"end": 1}', "{}"])
def test_json_that_nobody_would_write_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(WorkloadError):
        parse(text)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["end", "error", "sum_received", "sum_sent", "bytes", "seconds", "packets", "lost_packets"]),
        inner,
    ),
)


@given(st.text() | VALUE.map(json.dumps))
def test_whatever_iperf_writes_is_a_flow_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        read = flow(parse(text))
        assert read.octets > 0
        assert read.mbit > 0
        assert 0 <= read.loss_percent <= 100


def test_of_nothing_known_everything_is_lost() -> None:
    assert Flow(octets=1, seconds=1.0).loss_percent == 100.0


def test_both_ends_are_bound_to_the_links_addresses_and_the_server_ends_by_itself() -> None:
    server = server_command(address="10.77.0.2", port=5300, seconds=30)
    assert server == "exec timeout 30 iperf3 -s -1 -B 10.77.0.2 -p 5300 --forceflush"
    client = client_command(source="10.77.0.1", target="10.77.0.2", port=5300, seconds=2, options="--bidir")
    assert client == "iperf3 -c 10.77.0.2 -B 10.77.0.1 -p 5300 -t 2 -J --bidir"


def serving(within: World, over: asyncio.Event) -> None:
    """Have vm2 serve until a test is over."""
    within.vm2.programs["iperf3 -s"] = serves("Server listening on 5201\n", over)


async def test_the_client_begins_once_the_server_listens_and_each_test_has_a_port_of_its_own(rundir: RunDir) -> None:
    async with world(rundir) as within:
        over = asyncio.Event()

        async def client(script: str, process: Process) -> int:
            assert len(within.vm2.scripts) == len(within.vm1.scripts)  # each of them after a server
            process.stdout.write(recorded("iperf-tcp.json"))
            over.set()
            return 0

        serving(within, over)
        within.vm1.programs["iperf3 -c"] = client
        for _ in range(2):
            over.clear()
            end = await iperf.run(within.pair.first, within.pair.second, seconds=1)
            assert end == totals("iperf-tcp.json")
    assert [script.split("-p ")[1].split()[0] for script in within.vm2.scripts] == ["5201", "5202"]
    assert [script.split("-p ")[1].split()[0] for script in within.vm1.scripts] == ["5201", "5202"]


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (says(recorded("iperf-refused.json")), "iperf3: unable to connect to server: Connection refused"),
        (says(recorded("iperf-terminated.json"), status=124), "iperf3: interrupt - the client has terminated"),
        (says("", status=137), "vm1: iperf3 failed with exit code 137"),
        (says("", status=127, stderr="sh: iperf3: not found\n"), "vm1: iperf3 failed .* sh: iperf3: not found"),
        (says(recorded("iperf-tcp.json")[:900], status=137), "iperf3's JSON is damaged"),
        (says("", status=0), "iperf3 wrote no JSON: nothing at all"),
    ],
    ids=["refused", "terminated", "killed", "missing", "cut off", "silent"],
)
async def test_a_client_that_fails_ends_the_server_and_says_why(rundir: RunDir, client: Any, message: str) -> None:
    async with world(rundir) as within:
        serving(within, asyncio.Event())  # it never ends by itself
        within.vm1.programs["iperf3 -c"] = client
        with pytest.raises(WorkloadError, match=message):
            await iperf.run(within.pair.first, within.pair.second, seconds=1)
    assert [record.status for record in within.raw.records if record.vm == "vm2"] == [None]


async def test_a_server_that_cannot_listen_is_told_and_no_client_runs(rundir: RunDir) -> None:
    async with world(rundir) as within:
        within.vm2.programs["iperf3 -s"] = says("", status=1, stderr="iperf3: error: unable to start listener\n")
        with pytest.raises(VerificationError, match=r"vm2: iperf3's server failed .*: unable to start"):
            await iperf.run(within.pair.first, within.pair.second, seconds=1)
    assert within.vm1.scripts == []


async def test_a_server_that_never_listens_is_given_up(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "READY_SECONDS", 0.1)
    async with world(rundir) as within:
        within.vm2.programs["iperf3 -s"] = serves("warming up\n")
        with pytest.raises(VerificationError, match="iperf3's server does not say 'Server listening' within"):
            await iperf.run(within.pair.first, within.pair.second, seconds=1)
    assert within.vm1.scripts == []
