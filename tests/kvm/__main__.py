"""Run vpctl's tests under KVM: in a nested host of each release, or on this host.

    python -m tests.kvm [--release bookworm]… [--results DIR] [-- PYTEST-ARGUMENT…]
    python -m tests.kvm --here -- -m kvm
    python -m tests.kvm --command 'SHELL COMMAND'

A directory of results has for each host: `host.json` (what it was), `junit.xml`, `dmesg.txt`, and what tests left.
Exit code: that of the last run that failed, 0 if all passed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.kvm import inside
from tests.kvm.nested import RELEASES, Release, host_image, make_payload, nested_host
from vpctl.image import ensure
from vpctl.log import Log
from vpctl.rundir import Directories


def main() -> int:
    """Run it; see the module's own words."""
    parser = argparse.ArgumentParser(
        prog="tests.kvm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", action="append", choices=[*RELEASES], help="of the nested host; default: all")
    parser.add_argument("--here", action="store_true", help="on this host, whose own KVM has to work")
    parser.add_argument("--results", type=Path, default=Path("kvm-results"), help="directory of results")
    parser.add_argument("--memory", default="6G", help="of the nested host")
    parser.add_argument("--cpus", type=int, default=2, help="of the nested host")
    parser.add_argument("--command", help="a shell command in place of pytest")
    parser.add_argument("arguments", nargs="*", help="of pytest")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a nested host is stopped then, too
    words = [*given.arguments] if given.command is None else ["--command", given.command]
    if given.here:
        return inside.main(["--bare", str(given.results / "here"), *_escaped(words)])
    statuses = [run(RELEASES[name], words, given) for name in given.release or RELEASES]
    return next((status for status in reversed(statuses) if status), 0)


def run(release: Release, words: list[str], given: argparse.Namespace) -> int:
    """Run in a nested host of one release; return the exit code."""
    began = time.monotonic()
    log = Log()
    directories = Directories.from_environment()
    results: Path = given.results / release.name
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vk") as temporary:
        payload = Path(temporary) / "payload.tar"
        image = asyncio.run(host_image(release, directories, log))
        guests = asyncio.run(ensure("micro", cache=directories.images, log=log))
        with log.step(f"pack the wheel, the tests and the guests' image for Debian {release.number}"):
            make_payload(release, guests, payload)
        with nested_host(image, payload, memory=given.memory, cpus=given.cpus) as host:
            status = host.run(*_escaped(words))
            if host.fetch(results):
                status = status or 1
    took = time.monotonic() - began
    print(f"Debian {release.number}: exit code {status} after {took / 60:.1f} min; results in {results}", flush=True)
    return status


def _escaped(words: list[str]) -> list[str]:
    """Return arguments so that argparse on the other side takes them all as pytest's."""
    return words if words[:1] == ["--command"] else ["--", *words]


if __name__ == "__main__":
    sys.exit(main())
