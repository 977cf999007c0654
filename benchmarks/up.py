"""What `vpctl up` costs: to ssh on both guests, against the same two QEMU command lines started by hand.

    python benchmarks/up.py [--rounds N] [FILE]

Interleaved, one round of each in turn, medians and their ratio; plugging and verifying are given apart. By hand
means: the command lines that vpctl wrote down, started at the same moment, each waited for until an ssh login works.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vpctl.guest.ssh import Address, wait_for_ssh
from vpctl.process import end, identify

ROOT = Path(__file__).resolve().parent.parent


def vpctl(*arguments: str, env: dict[str, str]) -> str:
    """Run vpctl and return its stdout."""
    command = [sys.executable, "-m", "vpctl", *arguments]
    done = subprocess.run(command, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def by_vpctl(file: Path, env: dict[str, str], keep: Path) -> dict[str, float]:
    """Time one `up`; keeps the command lines and configuration for the run by hand."""
    began, moment = time.monotonic(), time.time()
    result = json.loads(vpctl("up", "-q", "--json", str(file), env=env))
    total = time.monotonic() - began
    name = result["name"]
    entries = [json.loads(line) for line in vpctl("events", "--json", "-t", name, env=env).splitlines()]
    ready = [e["time"] for e in entries if e["type"] == "vm.state" and e["attributes"].get("state") == "ready"]
    shutil.rmtree(keep, ignore_errors=True)
    shutil.copytree(Path(env["VPCTL_RUN_DIR"]) / name, keep, ignore=lambda _, names: [n for n in names if is_live(n)])
    argv = {vm["name"]: Path(vm["logs"], "argv").read_text() for vm in result["vms"]}
    record = {"name": name, "argv": argv, "host_key": result["vms"][0]["ssh"]["host_key"]}
    (keep / "argv.json").write_text(json.dumps(record))
    vpctl("down", "-q", env=env)
    to_ssh = max(ready) - moment
    return {"to_ssh": to_ssh, "plug_and_verify": total - to_ssh}


def is_live(name: str) -> bool:
    """Whether a name in the run directory is a socket or lock, which cannot be copied."""
    return name.endswith((".qmp", ".qmp2", ".con", ".sock", ".lock", ".pid")) or name[-1].isdecimal()


async def by_hand(env: dict[str, str], keep: Path) -> float:
    """Start the same command lines and wait for ssh on all; return the seconds."""
    recorded = json.loads((keep / "argv.json").read_text())
    run = Path(env["VPCTL_RUN_DIR"]) / recorded["name"]
    shutil.copytree(keep, run, dirs_exist_ok=True)
    ports = {vm: free_port() for vm in recorded["argv"]}
    for vm in ports:
        make_directory(Path(env["VPCTL_STATE_DIR"], recorded["name"], "vms", vm, "1"))
    began = time.monotonic()
    processes = []
    for vm, line in recorded["argv"].items():
        forward = f"restrict=on,hostfwd=tcp:127.0.0.1:{ports[vm]}-:22"
        argv = [word.replace("restrict=on", forward) for word in shlex.split(line)]
        processes.append(await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL))
    try:
        async with asyncio.TaskGroup() as group:
            for vm, port in ports.items():
                group.create_task(login(vm, port, run / "identity", recorded["host_key"]), name=vm)
        return time.monotonic() - began
    finally:
        for process in processes:
            identity = identify(process.pid)
            if identity is not None:
                await end(identity, grace=2.0)
            await process.wait()
        shutil.rmtree(run)
        shutil.rmtree(Path(env["VPCTL_STATE_DIR"]) / recorded["name"])


async def login(vm: str, port: int, identity: Path, host_key: str) -> None:
    """Wait until an ssh login works."""
    address = Address(vm=vm, port=port, user="root", identity=identity, host_key=host_key)
    connection = await wait_for_ssh(address, timeout=120)
    connection.abort()


def make_directory(path: Path) -> None:
    """Make a directory where the command line has its serial log."""
    path.mkdir(parents=True, exist_ok=True)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "examples" / "pair.yaml")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vb-") as scratch:
        print(json.dumps(measure(options.file, options.rounds, Path(scratch)), indent=1))


def measure(file: Path, rounds: int, scratch: Path) -> dict[str, Any]:
    """Return medians and the ratio; the first round of each is warm-up and not counted."""
    directories = {f"VPCTL_{kind}_DIR": str(scratch / kind.lower()) for kind in ("RUN", "STATE")}
    env = {**os.environ, **directories, "PYTHONPATH": str(ROOT)}
    Path(directories["VPCTL_RUN_DIR"]).mkdir(mode=0o700)
    ours: list[dict[str, float]] = []
    hand: list[float] = []
    for number in range(rounds + 1):
        mine = by_vpctl(file, env, scratch / "keep")
        Path(directories["VPCTL_RUN_DIR"]).mkdir(mode=0o700, exist_ok=True)
        theirs = asyncio.run(by_hand(env, scratch / "keep"))
        print(f"round {number}: vpctl {mine['to_ssh']:.2f} s, by hand {theirs:.2f} s", file=sys.stderr)
        if number:
            ours.append(mine)
            hand.append(theirs)
    return {
        "rounds": rounds,
        "vpctl_to_ssh_s": round(statistics.median(entry["to_ssh"] for entry in ours), 3),
        "by_hand_to_ssh_s": round(statistics.median(hand), 3),
        "ratio_of_medians": round(statistics.median(entry["to_ssh"] for entry in ours) / statistics.median(hand), 3),
        "median_of_ratios": round(
            statistics.median(mine["to_ssh"] / theirs for mine, theirs in zip(ours, hand, strict=True)), 3
        ),
        "plug_and_verify_s": round(statistics.median(entry["plug_and_verify"] for entry in ours), 3),
    }


if __name__ == "__main__":
    main()
