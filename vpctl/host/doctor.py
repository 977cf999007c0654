"""What of this host would hinder a topology: a list of findings, each with a remedy. Nothing is changed.

`failed` findings are what `up` would stop at; `warning` ones it lives with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vpctl.errors import HostError, UsageError, VpctlError
from vpctl.log import Log
from vpctl.process import find_tool, run
from vpctl.qemu.accelerator import decide
from vpctl.qemu.host import Finding, examine_host
from vpctl.qemu.memory import MEMORY_REMEDY, memory_need
from vpctl.qemu.probe import INSTALL, QemuInfo, find_qemu, lacks, probe, remedy
from vpctl.rundir import Directories
from vpctl.topology.model import Topology, VmSpec

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
IMAGE_BUILD_BYTES = 2 << 30
STATE_BYTES = 100 << 20
LONGEST_VM, LONGEST_LINK = "v" * 31, "l" * 15
"""Names are no longer than this (contract: topology file); for the path check where no topology is at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What is to run: the topologies, and what their link kinds need of QEMU.

    `kernel` is that of the built image; None as long as there is none, and then no KVM can be tried.
    """

    topologies: Sequence[Topology] = ()
    devices: Iterable[str] = field(default_factory=tuple)
    netdevs: Iterable[str] = field(default_factory=tuple)
    kernel: Path | None = None
    shared_memory: int = 0
    """Bytes that the links take beside the guests' own memory."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Process → how many files it has open, of the topology that needs the most for one."""


async def examine(
    directories: Directories,
    needs: Needs,
    *,
    log: Log,
    fresh: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Look at everything that `up` depends on; `fresh` asks QEMU and tries KVM again."""
    findings: list[Finding] = []
    for qemu in _qemus(needs.topologies):
        findings += await _examine_qemu(qemu, directories, needs, log=log, fresh=fresh, environ=environ)
    findings.append(_examine_memory(needs.topologies, needs.shared_memory))
    findings += _examine_socket_paths(directories, needs.topologies)
    findings += [_examine_image_tools(image_built=needs.kernel is not None), await _examine_user_namespaces()]
    findings += examine_host(needs.files)
    findings += _examine_directories(directories)
    findings += _examine_disk(directories, image_built=needs.kernel is not None)
    return findings


def _qemus(topologies: Sequence[Topology]) -> list[VmSpec]:
    """Return one VM for each QEMU and accelerator that is asked for; a VM of no wishes if there are no topologies."""
    vms = [vm for topology in topologies for vm in topology.vms] or [VmSpec(name="any")]
    return list({(vm.qemu, vm.accelerator): vm for vm in vms}.values())


async def _examine_qemu(
    vm: VmSpec, directories: Directories, needs: Needs, *, log: Log, fresh: bool, environ: Mapping[str, str]
) -> list[Finding]:
    try:
        info = await probe(find_qemu(vm.qemu, environ), cache=directories.cache, fresh=fresh)
    except HostError as error:
        return [_failed("qemu", error)]
    problems = lacks(info, devices=needs.devices, netdevs=needs.netdevs)
    findings = [
        Finding(name="qemu", ok="failed", message=f"QEMU {info.version_text} {problem}", remedy=remedy(info))
        for problem in problems
    ] or [Finding(name="qemu", ok="ok", message=f"QEMU {info.version_text}, {info.argv[0]}")]
    if not info.sandbox:
        message = "built without seccomp: guests' QEMUs run unconfined"
        findings.append(Finding(name="sandbox", ok="warning", message=message, remedy=INSTALL))
    return [
        *findings,
        await _examine_accelerator(vm, info, directories, needs, log=log, fresh=fresh, environ=environ),
    ]


async def _examine_accelerator(
    vm: VmSpec,
    info: QemuInfo,
    directories: Directories,
    needs: Needs,
    *,
    log: Log,
    fresh: bool,
    environ: Mapping[str, str],
) -> Finding:
    if needs.kernel is None:
        message = "not tried: that needs an image's kernel"
        return Finding(name="accelerator", ok="warning", message=message, remedy="vpctl image build")
    try:
        verdict = await decide(
            vm.accelerator,
            qemu=info,
            kernel=needs.kernel,
            cache=directories.cache,
            log=log,
            fresh=fresh,
            environ=environ,
        )
    except (HostError, UsageError) as error:
        return _failed("accelerator", error)
    if verdict.warning is not None:
        return Finding(name="accelerator", ok="warning", message=verdict.warning, remedy=verdict.hint)
    return Finding(name="accelerator", ok="ok", message=f"{verdict.accelerator}: {verdict.reason}")


def _failed(name: str, error: VpctlError) -> Finding:
    return Finding(name=name, ok="failed", message=error.message, remedy=error.hint)


def _examine_memory(topologies: Sequence[Topology], shared: int) -> Finding:
    need = memory_need(*topologies, shared=shared)
    if not need.fits:
        return Finding(name="memory", ok="failed", message=need.message, remedy=MEMORY_REMEDY)
    if need.swaps:
        return Finding(name="memory", ok="warning", message=f"{need.message}: it will swap", remedy=MEMORY_REMEDY)
    return Finding(name="memory", ok="ok", message=need.message)


def _examine_socket_paths(directories: Directories, topologies: Sequence[Topology]) -> list[Finding]:
    names = [(t.name, [vm.name for vm in t.vms], [link.name for link in t.links]) for t in topologies]
    findings = []
    for name, vms, links in names or [("t" * 31, [LONGEST_VM], [LONGEST_LINK])]:
        try:
            directories.topology(name).check_socket_paths(vms, links)
        except HostError as error:
            if topologies:
                findings.append(_failed("socket paths", error))
            else:
                message = "names of the greatest length would make socket paths that are too long"
                findings.append(Finding(name="socket paths", ok="warning", message=message, remedy=error.hint))
    return findings or [Finding(name="socket paths", ok="ok", message=f"short enough in {directories.run}")]


def _examine_image_tools(*, image_built: bool) -> Finding:
    """Look for what a build needs; with an image at hand a lack is no reason to stop."""
    missing = []
    for tool, package in (
        ("mmdebstrap", "mmdebstrap"),
        ("apt-get", "apt"),
        ("gpgv", "gpgv"),
        ("setpriv", "util-linux"),
    ):
        try:
            find_tool(tool, package=package)
        except HostError:
            missing.append(package)
    if not KEYRING.exists():
        missing.append("debian-archive-keyring")
    if not missing:
        return Finding(name="image tools", ok="ok", message="all there")
    message = f"missing for an image build: {', '.join(missing)}"
    ok: Literal["warning", "failed"] = "warning" if image_built else "failed"
    return Finding(name="image tools", ok=ok, message=message, remedy=f"apt install {' '.join(missing)}")


async def _examine_user_namespaces() -> Finding:
    """Try one, as mmdebstrap makes it: subordinate ids, sysctls and AppArmor all have a say, and only a try tells."""
    name = "user namespaces"
    if os.getuid() == 0:
        return Finding(name=name, ok="ok", message="not needed: root builds images without")
    try:
        argv = [find_tool("mmdebstrap"), "--unshare-helper", "true"]
        status, output = await run(argv, timeout=30, check=False)
    except (HostError, TimeoutError) as error:
        return Finding(name=name, ok="warning", message=f"not tried: {error}", remedy="apt install mmdebstrap uidmap")
    if status == 0:
        return Finding(name=name, ok="ok", message="work: images are built without root")
    said = (output.strip().splitlines() or ["no message"])[-1]
    message = f"do not work, so building an image needs root: {said}"
    return Finding(name=name, ok="warning", message=message, remedy=_namespace_remedy())


def _namespace_remedy() -> str:
    restriction = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restriction.exists() and restriction.read_text(encoding="utf-8").strip() == "1":
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or build as root"
    return "apt install uidmap, an entry of this user in /etc/subuid and /etc/subgid, or build as root"


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(candidate for candidate in (path, *path.parents) if _status(candidate) is not None)


def _status(path: Path) -> os.stat_result | None:
    """Return what lstat tells; None also where a parent may not be entered."""
    try:
        return path.lstat()
    except OSError:
        return None


def _examine_directories(directories: Directories) -> list[Finding]:
    found = []
    for name in ("run", "state", "cache"):
        path: Path = getattr(directories, name)
        found.append(_examine_directory(f"{name} directory", path, private=name == "run"))
    return found


def _examine_directory(name: str, path: Path, *, private: bool) -> Finding:
    here = _existing(path)
    if not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
        remedy = f"set VPCTL_{name.split()[0].upper()}_DIR to a directory of yours"
        return Finding(name=name, ok="failed", message=f"{here} cannot be written to", remedy=remedy)
    info = _status(path)
    if private and info is not None:
        if info.st_uid != os.getuid() or stat.S_ISLNK(info.st_mode):
            message = f"{path} is not a directory of this user"
            return Finding(name=name, ok="failed", message=message, remedy="remove it, or set VPCTL_RUN_DIR")
        if info.st_mode & 0o077:
            message = f"{path} is open to other users"
            return Finding(name=name, ok="failed", message=message, remedy=f"chmod 700 {path}")
    return Finding(name=name, ok="ok", message=str(path))


def _examine_disk(directories: Directories, *, image_built: bool) -> list[Finding]:
    wanted = {directories.state: STATE_BYTES, directories.cache: STATE_BYTES if image_built else IMAGE_BUILD_BYTES}
    found = []
    for path, needed in wanted.items():
        space = os.statvfs(_existing(path))
        free = space.f_bavail * space.f_frsize
        message = f"{free >> 20} MiB free for {path}, {needed >> 20} MiB may be needed"
        if free < needed:
            found.append(Finding(name="disk", ok="failed", message=message, remedy=f"df -h {_existing(path)}"))
        else:
            found.append(Finding(name="disk", ok="ok", message=message))
    return found
