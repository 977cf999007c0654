"""How long recoveries take: each kind of link, policy, side that dies and way to die, under traffic, as medians.

    python benchmarks/recovery.py [--rounds 5] [--kinds vhost-pci,ivshmem-doorbell,stream] [--how kill] [--json FILE]

A pair per kind and policy; vm1 is the back-end of a vhost-pci link. A round counts only if the survivor's QEMU and
its guest's boot_id are the same afterwards and the full check passed. Two more ways are no crash: `rebind` (the
driver of one end is unbound and bound) and `reboot` (of a guest; the overhead is what comes after its ssh). Their
*back* is the time from the driver's return to the first reply; of a reboot, from the moment at which the interface
got its name. Prints a Markdown table; what it is at: stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpctl.links import LINK_KINDS

NAME = "recovery-benchmark"
VMS = ("vm1", "vm2")
FIGURES = ("detect_ms", "survivor_ms", "boot_ms", "overhead_ms", "outage_ms", "back_ms")
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def vpctl(*words: str) -> str:
    """Run a command of vpctl; what it wrote. CalledProcessError if it failed."""
    done = subprocess.run([sys.executable, "-m", "vpctl", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def status(*, whole: bool = True) -> dict[str, Any]:
    """Return the topology's status; CalledProcessError if anything is not well, unless that is as it should be."""
    words = [sys.executable, "-m", "vpctl", "status", NAME, "-f", "json"]
    found: dict[str, Any] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=whole).stdout)
    return found


def pids() -> dict[str, int]:
    return {vm["name"]: vm["pid"] for vm in status()["vms"]}


@contextmanager
def pair(kind: str, policy: str) -> Iterator[None]:
    """Have two guests, and a link of this kind and policy, for as long as the block lasts."""
    link = f"{{kind: {kind}, endpoints: [vm1, vm2], recovery: {{policy: {policy}}}}}"
    text = f"version: 1\nname: {NAME}\nvms: {{vm1: {{}}, vm2: {{}}}}\nlinks: {{lan0: {link}}}\n"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pair.yaml"
        path.write_text(text)
        try:
            vpctl("up", str(path), "-f", "json")
            yield
        except BaseException:
            vpctl("down", NAME, "--keep-logs", "-f", "json")
            raise
        else:
            vpctl("down", NAME, "-f", "json")


def address_of(vm: str) -> str:
    """Return the address of a VM's end of the link."""
    (link,) = status()["links"]
    (address,) = (end["address"].partition("/")[0] for end in link["endpoints"] if end["vm"] == vm)
    return str(address)


@contextmanager
def traffic(source: str, address: str) -> Iterator[None]:
    """Have a guest send for as long as the block lasts."""
    send = f"vpctl-agent stream-send lan0 {address} --rate 500 >/dev/null 2>&1 & sleep 0.3"
    sent = vpctl("exec", "-t", NAME, source, "--", f"{send}; cat /sys/class/net/lan0/statistics/tx_packets")
    assert int(sent) > 0
    yield
    vpctl("exec", "-t", NAME, source, "--", "pkill -f '[s]tream-send'; true")


def one(victim: str, how: str, policy: str) -> dict[str, float]:
    """Have a VM die once; the figures of its recovery. AssertionError: it was none."""
    (survivor,) = set(VMS) - {victim}
    before, boot_id = pids(), vpctl("exec", "-t", NAME, survivor, "--", BOOT_ID)
    with traffic(survivor, address_of(victim)):
        vpctl("crash", victim, "-t", NAME, "--how", how)
        report = json.loads(vpctl("recover", victim, "-t", NAME, "-f", "json"))
    assert report["ok"], report
    assert report["policy"] == policy, report
    assert report["check"]["ok"], report
    assert pids()[survivor] == before[survivor]
    assert vpctl("exec", "-t", NAME, survivor, "--", BOOT_ID) == boot_id
    return {**report, "outage_ms": max(entry["outage_ms"] for entry in report["links"])}


def rebind(victim: str) -> dict[str, float]:
    """Take the driver from one end of the link, and give it back; the milliseconds from then to the first reply."""
    (other,) = set(VMS) - {victim}
    script = (
        "n=/sys/class/net/lan0/device; d=$(basename $(readlink -f $n)); cd $(readlink -f $n/driver) && "
        "echo $d >unbind && sleep 0.5 && read began rest </proc/uptime && echo $d >bind && "
        f"read bound rest </proc/uptime && vpctl-agent probe lan0 {address_of(other)} --count 1 && echo $began $bound"
    )
    probe, times = vpctl("exec", "-t", NAME, victim, "--", script).splitlines()
    began, bound = map(float, times.split())
    return {"back_ms": (bound - began) * 1000 + json.loads(probe)["first_reply_ms"]}


def reboot(victim: str) -> dict[str, float]:
    """Have a guest reboot; the figures of what became of its link."""
    before = json.loads(vpctl("recover", victim, "-t", NAME, "-f", "json"))["last"]
    (survivor,), address = set(VMS) - {victim}, address_of(victim)
    vpctl("exec", "-t", NAME, victim, "--", "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")
    while next(vm["state"] for vm in status(whole=False)["vms"] if vm["name"] == victim) == "ready":
        time.sleep(0.05)
    probe = f"vpctl-agent probe lan0 {address} --count 0 --timeout-ms 60000"
    replied_at = time_of_reply("exec", "-t", NAME, survivor, "--", probe)
    while (report := json.loads(vpctl("recover", victim, "-t", NAME, "-f", "json"))).get("last") == before:
        time.sleep(0.2)
    last: dict[str, Any] = report.get("last") or report
    assert (last["fault"], last["ok"]) == ("guest-reboot", True), last
    back = replied_at - time_of_name(victim)
    return {**last, "outage_ms": max(entry["outage_ms"] for entry in last["links"]), "back_ms": back * 1000}


def time_of_reply(*words: str) -> float:
    """Run a probe; return when it told of its reply (CLOCK_MONOTONIC)."""
    at, said = first_line_and_rest(*words)
    assert json.loads(said[0])["ok"], said
    return at


def time_of_name(vm: str) -> float:
    """Return when a guest's link got its interface (CLOCK_MONOTONIC)."""
    # The kernel's log has a clock of its own. The word that sets it is under way for as long as a probe's is.
    look = "echo '<1>now' >/dev/kmsg; echo now; dmesg | grep -E 'lan0: renamed|now$' | tail -n 2"
    at, (_, *lines) = first_line_and_rest("exec", "-t", NAME, vm, "--", look)
    named, now = (float(line.strip("[ ").split()[0].rstrip("]")) for line in lines)
    return at - (now - named)


def first_line_and_rest(*words: str) -> tuple[float, list[str]]:
    """Run a command of vpctl; return when its first line came (CLOCK_MONOTONIC), and all of its lines."""
    with subprocess.Popen([sys.executable, "-m", "vpctl", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        at = time.monotonic()
        return at, [first, *process.stdout]


def median(rounds: list[dict[str, float]], figure: str) -> str:
    """Return the median of a figure, or a dash if it makes no sense here."""
    return f"{statistics.median(each[figure] for each in rounds):.0f}" if figure in rounds[0] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="vhost-pci,ivshmem-doorbell,stream")
    parser.add_argument("--how", default="kill", help="kill, panic, hang, stop, rebind, reboot; several with commas")
    parser.add_argument("--json", type=Path, help="every round's figures, as JSON")
    options = parser.parse_args()
    print("| kind | policy | who died | how | " + " | ".join(figure[:-3] for figure in FIGURES) + " |")
    print("| --- | --- | --- | --- |" + " ---: |" * len(FIGURES))
    rows = []
    for kind in options.kinds.split(","):
        for policy in LINK_KINDS[kind].rules.policies:
            with pair(kind, policy):
                # Interleaved, so that what else the host does falls on both sides alike.
                seen: dict[tuple[str, str], list[dict[str, float]]] = {}
                for number in range(options.rounds):
                    for how in options.how.split(","):
                        for victim in VMS:
                            print(f"{kind} {policy} {victim} {how}: round {number + 1}", file=sys.stderr, flush=True)
                            way = {"rebind": rebind, "reboot": reboot}.get(how)
                            found = way(victim) if way is not None else one(victim, how, policy)
                            seen.setdefault((victim, how), []).append(found)
            for (victim, how), rounds in seen.items():
                rows.append({"kind": kind, "policy": policy, "victim": victim, "how": how, "rounds": rounds})
                cells = " | ".join(median(rounds, figure) for figure in FIGURES)
                print(f"| {kind} | {policy} | {victim} | {how} | {cells} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
