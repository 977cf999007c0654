"""The agent at work, on this host: two network namespaces of this test's own and a veth pair between them."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent import wire
from vpctl.guest.heartbeat import EndState, Heartbeat, parse

MAC_A, MAC_B = "02:00:00:00:0a:01", "02:00:00:00:0b:01"

WORLD = f"""
set -eu
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys  # what it shows belongs to the namespace that mounts it
ip netns add b
b() {{ ip netns exec b "$@"; }}
plug() {{
	ip link add vetha address {MAC_A} type veth peer name vethb netns b
	b ip link set vethb address {MAC_B}
}}
echo "{MAC_A} lan0 10.99.0.1/30 1400 10.99.0.2" >a.links
echo "{MAC_B} lan0 10.99.0.2/30 1400 10.99.0.1" >b.links
: >a.beats
: >b.beats
start() {{
	$AGENT daemon --links a.links --port a.beats & a=$!
	ip netns exec b $AGENT daemon --links b.links --port b.beats &
	$AGENT probe lan0 10.99.0.2 --timeout-ms 5000
}}
"""


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where this host lets nobody make namespaces."""
    needed = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if needed:
        pytest.skip(f"missing: {needed}")
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no namespaces: {done.stderr.strip()}")


UNSHARE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
]


def run(agent: Path, directory: Path, script: str) -> list[Any]:
    """Run a script in a world of its own, which ends with it; return what it printed, line by line, as JSON."""
    text = WORLD + textwrap.dedent(script)
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", text],
        cwd=directory,
        env={"AGENT": str(agent), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


pytestmark = pytest.mark.usefixtures("namespaces")


def test_links_are_named_and_addressed_and_the_probe_gets_its_answers(agent: Path, tmp_path: Path) -> None:
    probe, interfaces = run(agent, tmp_path, "plug; start; ip -j address show dev lan0")
    assert probe["ok"]
    assert (probe["sent"], probe["received"], probe["corrupt"], probe["loss_percent"]) == (5, 5, 0, 0)
    assert 0 < probe["rtt_ms"] < 1000
    assert (probe["interface"], probe["address"], probe["mac"]) == ("lan0", "10.99.0.1", MAC_A)
    assert interfaces[0]["mtu"] == 1400


def test_a_link_that_goes_and_comes_back_is_set_up_again_and_beats_say_so(agent: Path, tmp_path: Path) -> None:
    gone, back = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        ip link del lan0
        $AGENT probe lan0 10.99.0.2 --timeout-ms 100 || true
        plug
        $AGENT probe lan0 10.99.0.2 --timeout-ms 5000
        """,
    )
    assert (gone["ok"], gone["error"]) == (False, "no such interface")
    assert back["ok"]
    there = [bool(beat.links) for beat in beats_of(tmp_path)]
    assert [now for now, before in zip(there, [False, *there], strict=False) if now != before][:3] == [
        True,
        False,
        True,
    ]


def beats_of(directory: Path, name: str = "a") -> list[Heartbeat]:
    return parse((directory / f"{name}.beats").read_text())


def changes_of(directory: Path, name: str = "a") -> list[EndState]:
    """Return the states of the link's end in order, each once."""
    states = [beat.end("lan0").state for beat in beats_of(directory, name)]
    return [now for now, before in zip(states, [None, *states], strict=False) if now != before]


def test_a_beat_tells_at_once_that_an_interface_is_down_or_has_no_carrier(agent: Path, tmp_path: Path) -> None:
    run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        said() { while ! tail -n 1 a.beats | grep -q "$1"; do sleep 0.02; done; }
        b ip link set lan0 down; said lan0:no-carrier
        ip link set lan0 down; said lan0:down
        ip link set lan0 up; b ip link set lan0 up; said lan0:0
        ip addr flush dev lan0; ip addr add 10.98.0.1/24 dev lan0; said lan0:readdressed
        """,
    )
    states = changes_of(tmp_path)
    # In between its carrier, or that of its peer, may be seen to be on its way.
    for state in (EndState.NO_CARRIER, EndState.DOWN, EndState.UP, EndState.READDRESSED):
        assert state in states
        states = states[states.index(state) :]


def test_a_beat_counts_for_how_long_nothing_has_come_and_an_idle_peer_is_heard(agent: Path, tmp_path: Path) -> None:
    run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        sleep 3.2
        cp a.beats idle.beats
        b ip link set lan0 arp off
        while ! tail -n 1 a.beats | grep -q 'lan0:[3-9]'; do sleep 0.05; done
        b ip link set lan0 arp on
        while ! tail -n 1 a.beats | grep -q lan0:0; do sleep 0.05; done
        """,
    )
    assert max(beat.end("lan0").silent for beat in beats_of(tmp_path, "idle")) <= 1, "it answers when it is asked"
    silences = [beat.end("lan0").silent for beat in beats_of(tmp_path)]
    assert {1, 2, 3} <= set(silences)
    assert silences[-1] == 0


LISTEN = """
import json, socket
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
print("listening", flush=True)
asked = set()
while asked != {"10.99.0.1", "10.99.0.2"}:
    packet = packets.recv(100)
    if packet[6:12] == bytes.fromhex("%s") and packet[20:22] == bytes([0, 1]):
        asked.add(socket.inet_ntoa(packet[38:42]))
print(json.dumps(sorted(asked)))
"""


def test_when_the_carrier_comes_the_address_is_announced_and_the_other_ends_asked_for(
    agent: Path, tmp_path: Path
) -> None:
    (tmp_path / "listen.py").write_text(LISTEN % MAC_A.replace(":", ""))
    [asked] = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        b ip link set lan0 down
        while [ $(cat /sys/class/net/lan0/operstate) = up ]; do sleep 0.02; done  # that is news a second later
        b timeout 10 python3 listen.py >heard & listener=$!
        while ! grep -q listening heard; do sleep 0.02; done
        b ip link set lan0 up
        wait $listener
        cat heard
        """,
    )
    assert asked == ["10.99.0.1", "10.99.0.2"]


def test_what_people_change_on_a_link_stays_changed(agent: Path, tmp_path: Path) -> None:
    script = (
        "plug; start >/dev/null; ip addr flush dev lan0; ip link set lan0 mtu 900; sleep 1.3; ip -j address show lan0"
    )
    [[lan0]] = run(agent, tmp_path, script)
    assert lan0["mtu"] == 900
    assert [info for info in lan0["addr_info"] if info["family"] == "inet"] == []


def test_a_link_plugged_before_the_agent_starts_and_up_under_another_name_is_set_up(
    agent: Path, tmp_path: Path
) -> None:
    [probe] = run(agent, tmp_path, "plug; ip link set vetha up; b ip link set vethb up; start")
    assert probe["ok"]


SAID = """
said() { while ! tail -n 1 $1 | grep -q "$2"; do sleep 0.02; done; }
"""


def test_an_agent_that_was_killed_is_followed_by_one_that_knows_what_is_up(agent: Path, tmp_path: Path) -> None:
    [[lan0], [addressed]] = run(
        agent,
        tmp_path,
        f"""{SAID}
        plug; start >/dev/null
        said a.beats lan0:0
        ip link set lan0 mtu 900
        kill -9 $a; wait $a || true
        : >again.beats
        $AGENT daemon --links a.links --port again.beats &
        said again.beats lan0:0
        ip -j link show lan0
        ip addr flush dev lan0; said again.beats lan0:readdressed
        kill -9 $!
        : >third.beats
        $AGENT daemon --links a.links --port third.beats &
        said third.beats lan0:readdressed
        ip -j address show lan0
        """,
    )
    assert lan0["mtu"] == 900, "what a user has changed is not undone by the next agent"
    assert [info for info in addressed["addr_info"] if info["family"] == "inet"] == []
    states = {beat.end("lan0").state for name in ("again", "third") for beat in beats_of(tmp_path, name)}
    assert states == {EndState.UP, EndState.READDRESSED}, "at once, not after news that does not come"


def test_links_that_have_each_others_names_are_named_right_at_once(agent: Path, tmp_path: Path) -> None:
    macs = [f"02:00:00:00:0c:0{number}" for number in range(3)]
    # As after a reboot: the kernel counts interfaces in the order in which it finds them.
    (tmp_path / "links").write_text(
        "".join(f"{mac} eth{(number + 1) % 3 + 1} 10.98.{number}.1/30 1500\n" for number, mac in enumerate(macs))
    )
    *_, links = run(
        agent,
        tmp_path,
        f"""{SAID}
        for i in 0 1 2; do ip link add eth$((i + 1)) address 02:00:00:00:0c:0$i type veth peer name peer$i; done
        $AGENT daemon --links links --port a.beats 2>errors &
        said a.beats 'links=eth2:[^,]*,eth3:[^,]*,eth1:'
        cat errors >&2; test ! -s errors
        ip -j address show
        """,
    )
    named = {entry["ifname"]: entry for entry in links}
    assert [named[f"eth{number}"]["address"] for number in (1, 2, 3)] == [macs[2], macs[0], macs[1]]
    assert named["eth2"]["addr_info"][0]["local"] == "10.98.0.1"
    assert not [name for name in named if name.startswith("vpctl")]


def test_a_port_keeps_the_master_that_a_user_gave_it_and_is_proven_by_the_agents_own_frames(
    agent: Path, tmp_path: Path
) -> None:
    probe, received, [bridged], [met] = run(
        agent,
        tmp_path,
        f"""{SAID}
        plug; start >/dev/null
        said a.beats lan0:0
        ip link add br0 type bridge; ip addr flush dev lan0; ip link set lan0 master br0; ip link set br0 up
        said a.beats 'lan0:[a-z0-9]*;master=br0'
        sleep 1.2; said a.beats master=br0
        ip netns exec b sysctl -qw net.ipv4.icmp_echo_ignore_all=1
        b $AGENT probe lan0 10.99.0.1 {MAC_A} --count 2 --timeout-ms 3000
        $AGENT recv lan0 --plan frame:60x4,frame:1414x4 --seed 7 --timeout-ms 8000 >received & receiver=$!
        while ! grep -q ready received; do sleep 0.02; done
        b $AGENT send lan0 10.99.0.1 {MAC_A} --plan frame:60x4,frame:1414x4 --seed 7 >/dev/null
        wait $receiver
        cat received
        ip -j link show lan0
        kill -9 $a
        : >again.beats
        $AGENT daemon --links a.links --port again.beats &
        said again.beats master=br0
        ip -j address show lan0
        """,
    )
    assert probe["ok"], probe
    assert [test["received"] for test in received["tests"]] == [4, 4]
    assert bridged["master"] == met["master"] == "br0"
    assert [info for info in met["addr_info"] if info["family"] == "inet"] == [], "it is its user's"


def test_another_name_or_mac_is_the_users_and_told(agent: Path, tmp_path: Path) -> None:
    to_b, to_a = run(
        agent,
        tmp_path,
        f"""{SAID}
        plug; start >/dev/null
        said a.beats lan0:0
        b $AGENT probe lan0 10.99.0.1 --timeout-ms 3000 >/dev/null
        ip link set lan0 address 02:aa:00:00:00:01; said a.beats mac=02:aa:00:00:00:01
        b $AGENT probe lan0 10.99.0.1 --count 1 --timeout-ms 900 >/dev/null  # its neighbour is no stale one
        ip link set lan0 down; ip link set lan0 name mine; ip link set mine up; said a.beats name=mine
        sleep 1.2; ip link show mine >/dev/null
        $AGENT probe mine 10.99.0.2 {MAC_B} --timeout-ms 3000
        b sysctl -qw net.ipv4.icmp_echo_ignore_all=1
        sysctl -qw net.ipv4.icmp_echo_ignore_all=1
        b $AGENT probe lan0 10.99.0.1 {MAC_A} --timeout-ms 3000
        """,
    )
    assert to_b["ok"]
    assert to_b["mac"] == "02:aa:00:00:00:01"
    assert to_a["ok"], "it is known by the MAC that the link gives it, whatever it has"


def test_a_link_is_where_its_interface_is_and_not_where_its_old_name_is(agent: Path, tmp_path: Path) -> None:
    proof, sent = run(
        agent,
        tmp_path,
        f"""
        plug; start >/dev/null
        ip link set lan0 down; ip link set lan0 name mine; ip link set mine up
        ip link add lan0 type veth peer name other
        ip address add 10.97.0.1/24 dev lan0; ip link set lan0 up; ip link set other up
        $AGENT probe lan0 10.99.0.2 {MAC_B} --count 2 --timeout-ms 5000
        $AGENT send lan0 10.99.0.2 {MAC_B} --plan frame:60x2
        """,
    )
    assert (proof["ok"], proof["address"]) == (True, "10.99.0.1")
    assert sent["counters"]["tx_packets"] >= 2, "of the interface that the probe went through"


def test_an_interface_in_another_namespace_is_told_and_set_up_when_it_comes_back(agent: Path, tmp_path: Path) -> None:
    [[lan0]] = run(
        agent,
        tmp_path,
        f"""{SAID}
        plug; start >/dev/null
        said a.beats lan0:0
        ip netns add elsewhere
        ip link set lan0 netns elsewhere; said a.beats lan0:moved
        sleep 1.2; said a.beats lan0:moved
        ip -n elsewhere link set lan0 netns 1; said a.beats lan0:0
        ip -j address show lan0
        """,
    )
    assert [info["local"] for info in lan0["addr_info"] if info["family"] == "inet"] == ["10.99.0.1"]
    assert EndState.ABSENT not in [beat.end("lan0").state for beat in beats_of(tmp_path)][1:]


@pytest.mark.parametrize("back", ["later", "meanwhile"])
def test_an_agent_that_follows_another_knows_what_was_moved(agent: Path, tmp_path: Path, back: str) -> None:
    come = "ip -n elsewhere link set lan0 netns 1"
    [[lan0]] = run(
        agent,
        tmp_path,
        f"""{SAID}
        plug; start >/dev/null
        ip netns add elsewhere
        ip link set lan0 netns elsewhere; said a.beats lan0:moved
        kill -9 $a; wait $a || true
        {come if back == "meanwhile" else ""}
        : >again.beats
        $AGENT daemon --links a.links --port again.beats & a=$!
        {f"said again.beats lan0:moved; {come}" if back == "later" else ""}
        said again.beats lan0:0
        kill -9 $a; wait $a || true
        ip link delete lan0
        : >third.beats
        $AGENT daemon --links a.links --port third.beats &
        said third.beats ""
        ip link add lan0 address {MAC_A} type veth peer name other; said third.beats lan0
        ip -j address show lan0
        """,
    )
    assert [info["local"] for info in lan0["addr_info"] if info["family"] == "inet"] == ["10.99.0.1"]
    assert EndState.ABSENT not in [beat.end("lan0").state for beat in beats_of(tmp_path, "again")][1:]
    assert EndState.MOVED not in [beat.end("lan0").state for beat in beats_of(tmp_path, "third")]


@pytest.mark.parametrize("deaf", ["b sysctl -qw net.ipv4.icmp_echo_ignore_all=1", "b ip addr flush dev lan0"])
def test_a_peer_that_answers_no_icmp_answers_the_agents_echoes(agent: Path, tmp_path: Path, deaf: str) -> None:
    _, probe = run(
        agent, tmp_path, f"plug; start; {deaf}; $AGENT probe lan0 10.99.0.2 {MAC_B} --count 3 --timeout-ms 3000"
    )
    assert (probe["ok"], probe["sent"], probe["received"], probe["corrupt"]) == (True, 3, 3, 0)


def test_echoes_are_answered_by_the_end_that_is_asked_and_no_other(agent: Path, tmp_path: Path) -> None:
    _, probe = run(
        agent,
        tmp_path,
        "plug; start; b sysctl -qw net.ipv4.icmp_echo_ignore_all=1\n"
        "$AGENT probe lan0 10.99.0.2 02:00:00:00:0b:99 --count 0 --timeout-ms 300 && exit 1 || true",
    )
    assert (probe["ok"], probe["error"]) == (False, "no answer")


@pytest.mark.parametrize("answers", [True, False])
def test_a_probe_that_counts_none_tells_of_the_first_answer(agent: Path, tmp_path: Path, answers: bool) -> None:
    mute = "" if answers else "ip netns exec b sysctl -qw net.ipv4.icmp_echo_ignore_all=1;"
    [_, probe] = run(
        agent, tmp_path, f"plug; start; {mute} $AGENT probe lan0 10.99.0.2 --count 0 --timeout-ms 300 || true"
    )
    assert (probe["ok"], probe["sent"], probe["received"]) == (answers, 0, 0)
    assert probe["loss_percent"] == (0 if answers else 100)
    assert (probe["first_reply_ms"] is not None) is answers


def test_a_probe_whose_asker_is_gone_ends(agent: Path, tmp_path: Path) -> None:
    run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        ip netns exec b sysctl -qw net.ipv4.icmp_echo_ignore_all=1
        ( $AGENT probe lan0 10.99.0.2 --timeout-ms 60000 & echo $! >pid ) | head -c 0
        while kill -0 $(cat pid) 2>/dev/null; do sleep 0.02; done
        $AGENT probe other 10.99.0.2 --timeout-ms 60000 | head -c 0
        """,
    )


def test_a_probe_of_a_mute_peer_ends_in_time_and_says_no_answer(agent: Path, tmp_path: Path) -> None:
    [probe] = run(
        agent, tmp_path, "plug; start >/dev/null; b ip link set lan0 arp off; b ip addr flush dev lan0\n"
        "$AGENT probe lan0 10.99.0.2 --timeout-ms 300 && exit 1 || true"
    )  # fmt: skip
    assert (probe["ok"], probe["error"], probe["received"], probe["first_reply_ms"]) == (False, "no answer", 0, None)


PLAN = "frame:60x8,frame:1414x8,frame:1414x2,udp:1x4,udp:100x8,udp:65507x4,tcp:65536x1,tcp:7x3"


def test_everything_that_is_sent_arrives_once_and_intact(agent: Path, tmp_path: Path) -> None:
    sent, received = run(
        agent,
        tmp_path,
        f"""
        plug; start >/dev/null
        ip netns exec b $AGENT recv lan0 --plan {PLAN} --seed 7 --timeout-ms 8000 >received & receiver=$!
        while ! grep -q ready received; do sleep 0.02; done
        $AGENT send lan0 10.99.0.2 {MAC_B} --plan {PLAN} --seed 7
        wait $receiver
        cat received
        """,
    )
    counts = [int(test.rpartition("x")[2]) for test in PLAN.split(",")]
    assert [test["sent"] for test in sent["tests"]] == counts
    assert [test["received"] for test in received["tests"]] == counts
    assert {(test["corrupt"], test["duplicate"]) for test in received["tests"]} == {(0, 0)}
    assert [(test["protocol"], test["size"]) for test in sent["tests"]] == [
        (test["protocol"], test["size"]) for test in received["tests"]
    ]
    # The receiver counts for longer than the sender: a neighbour's question may come before or after.
    assert received["counters"]["rx_packets"] >= sent["counters"]["tx_packets"] > sum(counts)
    assert received["counters"]["rx_bytes"] >= sent["counters"]["tx_bytes"] > 4 * 65507


def test_damage_duplicates_and_strangers_are_counted_as_what_they_are(agent: Path, tmp_path: Path) -> None:
    to, source = (bytes.fromhex(mac.replace(":", "")) for mac in (MAC_B, MAC_A))
    messages = [wire.message(7, 0, number, 100) for number in range(4)]
    damaged = messages[2][:50] + bytes([messages[2][50] ^ 1]) + messages[2][51:]
    frames = [messages[0], messages[1], messages[1], damaged, messages[3], wire.message(8, 0, 2, 100), b"x" * 80]
    frames += [wire.message(7, wire.END_TEST, 0, 46)]
    (tmp_path / "frames").write_text("\n".join(wire.frame(to, source, payload).hex() for payload in frames))
    (tmp_path / "inject.py").write_text(INJECT)
    [received] = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        ip netns exec b $AGENT recv lan0 --plan frame:114x4 --seed 7 --timeout-ms 8000 >received & receiver=$!
        while ! grep -q ready received; do sleep 0.02; done
        python3 inject.py
        wait $receiver && exit 1 || cat received
        """,
    )
    assert received["tests"] == [{"protocol": "frame", "size": 114, "received": 3, "corrupt": 1, "duplicate": 1}]


INJECT = """
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
    packets.bind(("lan0", 0))
    for line in open("frames"):
        packets.send(bytes.fromhex(line))
"""


def test_a_receiver_whose_asker_is_gone_makes_room_for_the_next(agent: Path, tmp_path: Path) -> None:
    ready, _ = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        mkfifo heard
        ip netns exec b $AGENT recv lan0 --plan udp:100x1,tcp:100x1 --seed 7 --timeout-ms 60000 >heard & first=$!
        head -n 1 heard >/dev/null
        ip netns exec b $AGENT recv lan0 --plan udp:100x1,tcp:100x1 --seed 8 --timeout-ms 60000 >received & second=$!
        while ! grep -q ready received; do kill -0 $second; sleep 0.02; done
        wait $first && exit 1
        kill -0 $second && echo '{"ready": true}'
        kill $second
        echo '{}'
        """,
    )
    assert ready == {"ready": True}


def test_a_frame_larger_than_the_mtu_is_reported_as_not_sent(agent: Path, tmp_path: Path) -> None:
    [sent] = run(
        agent,
        tmp_path,
        f"plug; start >/dev/null; $AGENT send lan0 10.99.0.2 {MAC_B} --plan frame:1500x2 && exit 1 || true",
    )
    assert sent["tests"] == [{"protocol": "frame", "size": 1500, "sent": 0, "error": "Message too long"}]


def test_jumbo_frames_up_to_the_largest_mtu_pass(agent: Path, tmp_path: Path) -> None:
    plan = "frame:65549x3,udp:65507x2"
    [received] = run(
        agent,
        tmp_path,
        f"""
        sed -i s/1400/65535/ a.links b.links
        plug; start >/dev/null
        ip netns exec b $AGENT recv lan0 --plan {plan} --timeout-ms 8000 >received & receiver=$!
        while ! grep -q ready received; do sleep 0.02; done
        $AGENT send lan0 10.99.0.2 {MAC_B} --plan {plan} >/dev/null
        wait $receiver
        cat received
        """,
    )
    assert [test["received"] for test in received["tests"]] == [3, 2]


def test_a_stream_outlives_its_interface_and_the_gap_is_measured(agent: Path, tmp_path: Path) -> None:
    sent, received = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        ip netns exec b $AGENT stream-recv lan0 >received & receiver=$!
        sleep 0.1
        $AGENT stream-send lan0 10.99.0.2 --duration-ms 1500 & sender=$!
        sleep 0.4
        ip link del lan0
        sleep 0.3
        plug
        wait $sender
        kill -TERM $receiver
        wait $receiver
        cat received
        """,
    )
    assert sent["last_seq"] == pytest.approx(1499, abs=60)
    assert received["corrupt"] == 0
    assert received["last_seq"] == sent["last_seq"]
    assert received["longest_gap_ms"] > 280
    # At 1 kHz a number is a millisecond: both ways of measuring the gap must agree.
    assert received["gap_lost"] == pytest.approx(received["longest_gap_ms"], abs=80)
    assert received["lost"] >= received["gap_lost"]


def test_a_stream_goes_on_with_a_later_number_as_after_the_crash_of_its_guest(agent: Path, tmp_path: Path) -> None:
    before, after, received = run(
        agent,
        tmp_path,
        """
        plug; start >/dev/null
        ip netns exec b $AGENT stream-recv lan0 >received & receiver=$!
        sleep 0.1
        $AGENT stream-send lan0 10.99.0.2 --duration-ms 200
        sleep 0.5
        $AGENT stream-send lan0 10.99.0.2 --duration-ms 200 --first 5000
        kill -TERM $receiver
        wait $receiver
        cat received
        """,
    )
    assert before["last_seq"] == before["sent"] - 1
    assert after["last_seq"] == 5000 + after["sent"] - 1
    assert (received["first_seq"], received["last_seq"]) == (0, after["last_seq"])
    assert received["received"] == before["sent"] + after["sent"]
    assert received["gap_after_seq"] == before["last_seq"]
    assert received["gap_lost"] == received["lost"] == 5000 - before["sent"]
    assert received["longest_gap_ms"] >= 500
    assert (received["corrupt"], received["late"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nonsense",
        "probe",
        "probe lan0",
        "probe lan0 10.0.0",
        "recv lan0",
        "recv lan0 --plan udp:1",
        "probe a b c",
        "stream-send lan0",
        "stream-send lan0 10.0.0 --duration-ms 1",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --first -1",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --first 4294967296",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --first 1e3",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --first",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --rate 0",
        "stream-send lan0 10.0.0.1 --duration-ms 1 --rate 100001",
        "stream-recv lan0 --first 1",
    ],
)
def test_wrong_usage_is_2_and_says_nothing_on_stdout(agent: Path, arguments: str) -> None:
    done = subprocess.run([agent, *arguments.split()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
