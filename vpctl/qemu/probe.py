"""Which QEMU it is, and what it can do: asked once, remembered until the binary changes.

A QEMU is an argv prefix, not a path: a binary may need a loader and options in front of everything else, for instance
`ROOT/lib64/ld-linux-x86-64.so.2 --library-path ROOT/lib ROOT/usr/bin/qemu-system-x86_64 -L ROOT/usr/share/qemu`
(docs/decisions/0003-qemu-is-an-argv-prefix.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpctl.errors import HostError, VpctlError
from vpctl.process import ToolError, run
from vpctl.qemu.argv import SANDBOX
from vpctl.rundir import cache_directory, check_cache, read_json, write_json
from vpctl.topology.qemu_args import refused_in_command

MINIMUM = (7, 2)
"""The first with `-netdev stream`; Debian 12 has it."""

BASE_DEVICES = (
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-serial-pci",
    "virtserialport",
    "pvpanic",
    "pcie-root-port",
)
BASE_NETDEVS = ("user",)
"""Needed by every VM; a QEMU built without slirp lacks `user`."""

ELSEWHERE = ("/usr/libexec/qemu-kvm",)
"""Where distributions put a QEMU that is not in PATH: RHEL and its kin."""

INSTALL = "apt install qemu-system-x86, or set VPCTL_QEMU to another QEMU"
QUESTION_TIMEOUT = 30.0
"""A question takes 40 ms; a cold disk with a hundred megabytes of libraries takes seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QemuInfo:
    """What a QEMU said of itself when it was asked."""

    argv: tuple[str, ...]
    version: tuple[int, int, int]
    devices: frozenset[str]
    netdevs: frozenset[str]
    accelerators: frozenset[str]
    sandbox: bool
    """Whether it takes all four denials of `-sandbox` (it needs seccomp compiled in)."""
    identity: str
    """Changes when a file of it changes: a cache key."""

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))


def find_qemu(
    wanted: str | None, environ: Mapping[str, str] = os.environ, *, elsewhere: Sequence[str] = ELSEWHERE
) -> tuple[str, ...]:
    """Return the argv prefix of the QEMU to use: a VM's own `qemu:`, $VPCTL_QEMU, one in PATH, or one `elsewhere`.

    A value that is no file is split like a shell command. Raises HostError if its first word cannot be run, or if it
    gives QEMU an argument that breaks what vpctl relies on.
    """
    override = environ.get("VPCTL_QEMU")
    origin = "`qemu:`" if wanted else "VPCTL_QEMU" if override else "PATH"
    value = wanted or override or "qemu-system-x86_64"
    words = [value] if Path(value).is_file() else _split(value)
    found = shutil.which(words[0], path=environ.get("PATH", os.defpath))
    if found is None and origin == "PATH":
        found = next(filter(None, map(shutil.which, elsewhere)), None)
    if found is None:
        raise HostError(f"no QEMU: `{words[0]}` (from {origin}) is not there or cannot be run", hint=INSTALL)
    for refusal in refused_in_command(words):
        raise HostError(f"no QEMU: `{refusal.word}` in {origin}: {refusal.reason}", hint=refusal.hint)
    # Absolute, because the broker that starts it has another working directory.
    return (str(Path(found).absolute()), *words[1:])


def _split(value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise HostError(f"no QEMU: cannot read the command {value!r}: {error}", hint=INSTALL) from error
    return words or [value]


def identify_files(files: Iterable[str | Path]) -> str:
    """Return a key that changes when one of the files is replaced or rewritten."""
    digest = hashlib.sha256()
    for file in files:
        with contextlib.suppress(OSError):
            info = Path(file).stat()
            digest.update(f"{file} {info.st_mtime_ns} {info.st_size} {info.st_ino}\n".encode())
        digest.update(f"{file}\n".encode())
    return digest.hexdigest()


async def probe(argv: Sequence[str], *, cache: Path, fresh: bool = False) -> QemuInfo:
    """Return what a QEMU can do, from the cache if its files are the same as then.

    Raises HostError if it does not answer as QEMU does, or if other users may write to the cache. A cache that
    cannot be written is done without.
    """
    if not fresh and (known := remembered(argv, cache=cache)) is not None:
        return known
    identity = identify_files(argv)
    info = await _ask(tuple(argv), identity)
    with contextlib.suppress(OSError, HostError):
        record = _record(cache, identity)
        cache_directory(record.parent)
        write_json(record, _to_json(info))
    return info


def remembered(argv: Sequence[str], *, cache: Path) -> QemuInfo | None:
    """Return what a QEMU answered when it was last asked, without running it; None if its files were others then.

    Raises HostError if other users may write to the cache.
    """
    identity = identify_files(argv)
    record = _record(cache, identity)
    check_cache(cache, record.parent, record)
    return _from_json(read_json(record), argv, identity)


def supposed(argv: Sequence[str]) -> QemuInfo:
    """Return what a QEMU that was never asked has to answer for any VM to run: for a plan that runs nothing."""
    return QemuInfo(
        argv=tuple(argv),
        version=(*MINIMUM, 0),
        devices=frozenset(BASE_DEVICES),
        netdevs=frozenset(BASE_NETDEVS),
        accelerators=frozenset({"kvm", "tcg"}),
        sandbox=True,
        identity=identify_files(argv),
    )


def _record(cache: Path, identity: str) -> Path:
    return cache / "qemu" / f"{identity[:32]}.json"


async def probe_for(
    argv: Sequence[str],
    *,
    cache: Path,
    devices: Iterable[str] = (),
    netdevs: Iterable[str] = (),
    version: tuple[int, int] = MINIMUM,
) -> QemuInfo:
    """Return what a QEMU can do, or raise HostError naming everything that it lacks for what is to run on it.

    Devices may sit in modules that are packages of their own, so what a remembered answer lacks is asked again.
    """
    devices, netdevs = tuple(devices), tuple(netdevs)
    info = await probe(argv, cache=cache)
    if lacks(info, devices=devices, netdevs=netdevs, version=version):
        info = await probe(argv, cache=cache, fresh=True)
    if problems := lacks(info, devices=devices, netdevs=netdevs, version=version):
        raise HostError(f"{info.argv[0]} (QEMU {info.version_text}) {'; '.join(problems)}", hint=remedy(info))
    return info


def remedy(info: QemuInfo) -> str:
    """Return what to do about a QEMU that lacks something."""
    if Path(info.argv[0]).name == "qemu-kvm":
        return "RHEL builds its qemu-kvm without user networking and ivshmem: set VPCTL_QEMU to another QEMU"
    return INSTALL


def lacks(
    info: QemuInfo,
    *,
    devices: Iterable[str] = (),
    netdevs: Iterable[str] = (),
    version: tuple[int, int] = MINIMUM,
) -> list[str]:
    """Return what a QEMU lacks to run a VM with these devices and back-ends; empty if nothing."""
    problems = []
    oldest = max(version, MINIMUM)
    if info.version[:2] < oldest:
        problems.append(f"is too old: {oldest[0]}.{oldest[1]} or later is needed")
    if missing := sorted({*BASE_DEVICES, *devices} - info.devices):
        problems.append(f"lacks the device {', '.join(missing)}")
    if missing := sorted({*BASE_NETDEVS, *netdevs} - info.netdevs):
        problems.append(f"lacks the network back-end {', '.join(missing)}")
    return problems


async def _ask(argv: tuple[str, ...], identity: str) -> QemuInfo:
    version = parse_version(await _answer(argv, "-version"))
    if version is None:
        raise HostError(f"`{shlex.join(argv)}` is not QEMU: it tells no version", hint=INSTALL)
    return QemuInfo(
        argv=argv,
        version=version,
        devices=parse_devices(await _answer(argv, "-device", "help")),
        netdevs=parse_words(await _answer(argv, "-netdev", "help")),
        accelerators=parse_words(await _answer(argv, "-accel", "help")),
        sandbox=await _accepts_sandbox(argv),
        identity=identity,
    )


async def _answer(argv: tuple[str, ...], *question: str) -> str:
    try:
        _, output = await run([*argv, *question], timeout=QUESTION_TIMEOUT)
    except TimeoutError as error:
        command = shlex.join([*argv, *question])
        raise HostError(f"`{command}` does not answer within {QUESTION_TIMEOUT:g} s", hint=INSTALL) from error
    except (OSError, ToolError) as error:
        reason = error.message if isinstance(error, VpctlError) else str(error)
        raise HostError(f"cannot run QEMU: {reason}", hint=INSTALL) from error
    return output


async def _accepts_sandbox(argv: tuple[str, ...]) -> bool:
    # The confinement is set up before the help is printed, so a refusal shows in the exit code.
    try:
        status, _ = await run([*argv, "-sandbox", SANDBOX, "-device", "help"], timeout=QUESTION_TIMEOUT, check=False)
    except TimeoutError:
        return False
    return status == 0


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return the version that `-version` tells: `QEMU emulator version 7.2.22 (Debian …)`."""
    found = re.search(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def parse_devices(text: str) -> frozenset[str]:
    """Return the names in `-device help`: lines of `name "virtio-net-pci", bus PCI, alias "virtio-net"`."""
    return frozenset(re.findall(r'^name "([^"]+)"', text, re.MULTILINE))


def parse_words(text: str) -> frozenset[str]:
    """Return the lines of one word each: what `-netdev help` and `-accel help` list below a heading."""
    return frozenset(line.strip() for line in text.splitlines() if re.fullmatch(r"\s*[\w-]+\s*", line))


def _to_json(info: QemuInfo) -> dict[str, Any]:
    return {
        "version": list(info.version),
        "devices": sorted(info.devices),
        "netdevs": sorted(info.netdevs),
        "accelerators": sorted(info.accelerators),
        "sandbox": info.sandbox,
        "identity": info.identity,
    }


def _from_json(data: object, argv: Sequence[str], identity: str) -> QemuInfo | None:
    """Read what `_to_json` wrote of the QEMU `argv`; None for anything else, an older vpctl's shape included.

    What is to be run is never taken from a file: `argv` is the caller's.
    """
    try:
        raw: Any = data
        if raw["identity"] != identity:
            return None
        major, minor, patch = raw["version"]
        return QemuInfo(
            argv=tuple(argv),
            version=(int(major), int(minor), int(patch)),
            devices=frozenset(raw["devices"]),
            netdevs=frozenset(raw["netdevs"]),
            accelerators=frozenset(raw["accelerators"]),
            sandbox=bool(raw["sandbox"]),
            identity=identity,
        )
    except (TypeError, KeyError, ValueError):
        return None
