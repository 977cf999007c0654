"""The nested host: a guest of vpctl's own in which KVM works, though it may not work on this host.

QEMU's TCG emulates AMD's SVM with nested paging, so a Linux in it loads `kvm_amd` and runs guests under real KVM:
irqfds, ioeventfds, memory slots and interrupt routes are the kernel's own, only slow. Where KVM works on this host
and nesting is on, the nested host runs under KVM. It is the `micro` image with QEMU, Python and KVM's modules added,
and has no network: what it needs comes on a read-only disk, what it hands back goes out through ssh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import isolated_directories
from vpctl.image import GuestImage, ensure
from vpctl.log import Log
from vpctl.rundir import Directories

ROOT = Path(__file__).parents[2]

PACKAGES = ("qemu-system-x86", "python3", "openssh-client", "nftables", "strace")
MODULES = ("arch/x86/kvm", "virt", "drivers/crypto/ccp")
"""KVM, irqbypass, and the AMD security processor's driver, whose symbols kvm_amd needs."""

TESTERS = ("pytest", "pytest-asyncio", "hypothesis")
"""What runs the tests, beside what vpctl itself depends on."""

PAYLOAD = ("tests", "examples", "benchmarks", "pyproject.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A Debian release that a nested host can be made of."""

    name: str
    number: int
    python: str


RELEASES = {
    "bookworm": Release(name="bookworm", number=12, python="3.11"),
    "trixie": Release(name="trixie", number=13, python="3.13"),
}
"""Debian 12 brings QEMU 7.2 and Linux 6.1, Debian 13 brings QEMU 10.0 and Linux 6.12."""


async def host_image(release: Release, directories: Directories, log: Log) -> GuestImage:
    """Return the nested host's image; it is built where the cache has none of today's sources (about a minute)."""
    with tempfile.TemporaryDirectory(prefix="vk") as temporary:
        sources = Path(temporary)
        for name in ("agent", "driver", "micro"):
            (sources / name).symlink_to(ROOT / "images" / name)
        name = f"kvm-{release.name}"
        (sources / name).mkdir()
        (sources / name / "recipe.toml").write_text(_recipe(release), encoding="utf-8")
        mirror = os.environ.get("VPCTL_DEBIAN_MIRROR") or None
        return await ensure(name, cache=directories.cache / "kvm", mirror=mirror, log=log, sources=sources)


def _recipe(release: Release) -> str:
    """Return the recipe: that of `micro`, and what runs vpctl."""
    micro = tomllib.loads((ROOT / "images/micro/recipe.toml").read_text(encoding="utf-8"))["guest"]
    lists = {**micro, "packages": [*micro["packages"], *PACKAGES], "modules": [*micro["modules"], *MODULES]}
    # A list of strings is the same in TOML and in JSON.
    guest = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lists.items())
    return f'base = "micro"\nrelease = "{release.name}"\n[guest]\n{guest}'


def make_payload(release: Release, guests: GuestImage, path: Path) -> None:
    """Write what goes into the nested host as a tar file: Python packages, the tests, and the guests' image."""
    with tempfile.TemporaryDirectory(prefix="vk") as temporary:
        top = Path(temporary)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(top / "wheel"), str(ROOT)])
        (wheel,) = (top / "wheel").glob("*.whl")
        # For the nested host's Python, which need not be this one's: compiled packages must be of its version.
        target = ["--target", str(top / "site"), "--python-version", release.python, "--only-binary=:all:"]
        pins = ["--no-compile", "-c", str(ROOT / "constraints.txt")]
        _run([*pip, "install", *target, *pins, str(wheel), *TESTERS])
        for name in PAYLOAD:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, top / name)
        shutil.copytree(guests.directory, top / "cache/images" / guests.directory.name)
        _run(["tar", "-C", str(top), "-cf", str(path), *sorted(path.name for path in top.iterdir())])


def _run(argv: list[str]) -> None:
    """Run a tool of the host; what it said is shown if it failed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv[:6])} …: exit code {done.returncode}\n{done.stdout}{done.stderr}")


TOPOLOGY = """\
version: 1
name: nested
vms:
  host:
    image: {{kernel: {image.kernel}, initrd: {image.initrd}, disk: {image.disk}}}
    memory: {memory}
    cpus: {cpus}
    kernel_args: {image.kernel_args}
    health: {{heartbeat: 1h, qmp_timeout: 1h}}
    qemu_args:
      - -drive
      - if=none,id=payload,format=raw,readonly=on,file={payload}
      - -device
      - virtio-blk-pci,drive=payload,serial=vpctl-payload
"""

ENTER = """\
set -e
disk=$(grep -l vpctl-payload /sys/block/*/serial)
mkdir -p {top} {results}
tar -xf /dev/"$(basename "$(dirname "$disk")")" -C {top}
cd {top}
exec env PYTHONPATH={top}/site:{top} HOME=/root VPCTL_CACHE_DIR={top}/cache python3 -m tests.kvm.inside {results} "$@"
"""

TOP = "/run/vpctl-tests"
RESULTS = "/run/vpctl-results"


@contextmanager
def nested_host(image: GuestImage, payload: Path, *, memory: str, cpus: int) -> Iterator[NestedHost]:
    """Start a nested host; it is gone after the block, whatever happens in it."""
    environ = dict(os.environ)
    with isolated_directories(environ) as directories, tempfile.TemporaryDirectory(prefix="vk") as temporary:
        file = Path(temporary) / "nested.yaml"
        file.write_text(TOPOLOGY.format(image=image, payload=payload, memory=memory, cpus=cpus), encoding="utf-8")
        host = NestedHost(environ=environ, state=directories.topology("nested").state)
        try:
            if status := host.vpctl("up", str(file), "--boot-timeout", "300"):
                raise SystemExit(f"the nested host does not start: exit code {status}")
            yield host
        finally:
            host.vpctl("down", "-q", "--all")


@dataclass(frozen=True, kw_only=True, slots=True)
class NestedHost:
    """A nested host that runs."""

    environ: dict[str, str]
    state: Path
    """Its own console, and the journal of what happened to it."""

    def vpctl(self, *words: str) -> int:
        """Run a command of vpctl's on this host; return its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "vpctl", *words], env=self.environ, cwd=ROOT, check=False
        ).returncode

    def run(self, *words: str) -> int:
        """Run `tests.kvm.inside` with these arguments in the nested host; return its exit code."""
        script = ENTER.format(top=TOP, results=RESULTS)
        return self.vpctl("exec", "host", "--", "sh", "-c", script, "sh", *words)

    def fetch(self, results: Path) -> int:
        """Copy what the run has left, JUnit, logs and facts, into a directory of this host."""
        shutil.copytree(self.state, results / "nested-host", dirs_exist_ok=True)
        return self.vpctl("cp", "-q", f"host:{RESULTS}/.", str(results))
