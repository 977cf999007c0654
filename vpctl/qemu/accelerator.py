"""KVM or TCG: decided by a boot, because a /dev/kvm that opens proves nothing.

On hosts with a half-working KVM (nested, emulated) QEMU aborts, or its guest never leaves the boot loader. So the
image's kernel is booted once under KVM, with no root disk: it runs through all of its own start, panics for want of a
root file system, and the panic ends QEMU. Only a kernel's own words count as success. The verdict is remembered for
this boot of the host; a bad one for ten minutes, since an administrator may be at work on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vpctl.errors import HostError, UsageError
from vpctl.log import Log
from vpctl.process import describe_status, running
from vpctl.qemu.probe import QemuInfo, identify_files
from vpctl.rundir import cache_directory, host_boot_id, locked, read_json, write_json
from vpctl.topology.model import Accelerator
from vpctl.wait import until

KVM_DEVICE = Path("/dev/kvm")

SILENCE_LIMIT = 8.0
"""Seconds without a new line after which a guest hangs; a working KVM, nested too, speaks within one."""

BOOT_LIMIT = 60.0
NEGATIVE_LIFETIME = 600.0

BAD_KVM = "this host's KVM does not run guests: see dmesg; `vpctl doctor -v` tells the trial's command"

KERNEL_SPEAKS = re.compile(r"Linux version|^\[ *\d+\.\d{6}\]")
KERNEL_STARTED = re.compile(r"Kernel panic - not syncing: VFS|Run /\S*init as init process|Unable to mount root fs")
"""Memory, interrupts, timers and drivers are up by then; what is missing is only the root that was not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a VM is accelerated by, and why; the warning is for a fallback that the user should know of."""

    accelerator: Literal["kvm", "tcg"]
    cpu_model: str
    reason: str
    warning: str | None = None
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How KVM did: whether it works, and what was seen."""

    works: bool
    reason: str
    hint: str | None = None


async def decide(
    wanted: Accelerator,
    *,
    qemu: QemuInfo,
    kernel: Path,
    cache: Path,
    log: Log,
    fresh: bool = False,
    environ: Mapping[str, str] = os.environ,
    device: Path = KVM_DEVICE,
) -> Verdict:
    """Decide on an accelerator; `fresh` does not trust a remembered verdict.

    $VPCTL_ACCELERATOR wins over `wanted`. Raises HostError if KVM was asked for by name and does not work.
    """
    asked = _override(environ) or wanted
    if asked == "tcg":
        return _verdict("tcg", qemu, "TCG was asked for")
    trial = _obstacle(qemu, device) or await _remembered_trial(qemu, kernel, cache, log, fresh=fresh)
    if trial.works:
        return _verdict("kvm", qemu, trial.reason)
    if asked == "kvm":
        raise HostError(
            f"KVM was asked for and does not work: {trial.reason}", hint=trial.hint or "use `accelerator: auto`"
        )
    warning = f"KVM is not used: {trial.reason}; guests run under TCG, several times slower"
    return _verdict("tcg", qemu, trial.reason, warning=warning, hint=trial.hint)


def remembered(
    wanted: Accelerator,
    *,
    qemu: QemuInfo,
    kernel: Path,
    cache: Path,
    environ: Mapping[str, str] = os.environ,
    device: Path = KVM_DEVICE,
) -> Verdict | None:
    """Return the verdict as far as it is known without a boot: for `plan`, which starts nothing; None if it is not.

    A KVM that was asked for by name is taken at its word.
    """
    asked = _override(environ) or wanted
    if asked == "tcg":
        return _verdict("tcg", qemu, "TCG was asked for")
    if asked == "kvm":
        return _verdict("kvm", qemu, "KVM was asked for")
    trial = _obstacle(qemu, device) or _store(qemu, kernel, cache).read()
    return None if trial is None else _verdict("kvm" if trial.works else "tcg", qemu, trial.reason)


def cpu_model(accelerator: str, version: tuple[int, int, int]) -> str:
    """Return the CPU model for an accelerator.

    TCG: without ERMS Linux copies memory several times faster. FSRM, which `max` has from some release between 7.2
    and 10.0 on, must go with it: Linux takes FSRM to imply ERMS, and with FSRM alone 6.1 hangs early in its boot
    (QEMU 10.0.13, before the first line of a quiet console). From 10.0 the firmware puts 64-bit windows at the top
    of 40 bits unless told of 46.
    """
    if accelerator == "kvm":
        return "host"
    model = "max,-erms,-fsrm"
    if version >= (10,):
        model += ",phys-bits=46"
    return model


def _verdict(
    accelerator: Literal["kvm", "tcg"],
    qemu: QemuInfo,
    reason: str,
    *,
    warning: str | None = None,
    hint: str | None = None,
) -> Verdict:
    model = cpu_model(accelerator, qemu.version)
    return Verdict(accelerator=accelerator, cpu_model=model, reason=reason, warning=warning, hint=hint)


def _override(environ: Mapping[str, str]) -> Accelerator | None:
    value = environ.get("VPCTL_ACCELERATOR")
    if value is None or value == "":
        return None
    for known in get_args(Accelerator):
        if value == known:
            return cast(Accelerator, known)
    raise UsageError(f"VPCTL_ACCELERATOR is `{value}`", hint="it may be auto, kvm or tcg")


def open_device(device: Path) -> None:
    """Open a device and close it again; raises OSError as the kernel has it."""
    os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))


def _obstacle(qemu: QemuInfo, device: Path) -> Trial | None:
    """Return why KVM cannot even be tried, or None."""
    if "kvm" not in qemu.accelerators:
        return Trial(works=False, reason=f"QEMU {qemu.version_text} was built without KVM")
    try:
        open_device(device)
    except FileNotFoundError:
        hint = "enable virtualization in the firmware, or nested virtualization where this host is itself a guest"
        return Trial(works=False, reason=f"there is no {device}", hint=hint)
    except PermissionError:
        hint = _permission_hint(device)
        return Trial(works=False, reason=f"no permission to open {device}", hint=hint)
    except OSError as error:
        return Trial(works=False, reason=f"cannot open {device}: {error.strerror}", hint="see dmesg")
    return None


def _permission_hint(device: Path) -> str:
    """Say how this user gets to open a device; a uid that has no name (`docker run -u`) is in no group either."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return (
            f"uid {os.getuid()} has no name here: add the group of {device} to it, as `docker run --group-add` does"
        )
    return f"sudo usermod -aG kvm {user}, then log in again"


async def _remembered_trial(qemu: QemuInfo, kernel: Path, cache: Path, log: Log, *, fresh: bool) -> Trial:
    """Return the trial boot's outcome; several that ask at once, VMs or processes, share one boot."""
    store = _store(qemu, kernel, cache)
    if not fresh and (known := store.read()) is not None:
        return known
    asked = _now()
    async with _turn(store.path.with_suffix(".lock")):
        # Another process may have answered while this one waited; that answer is as fresh as one's own.
        known = store.read(since=asked) if fresh else store.read()
        if known is not None:
            return known
        argv = boot_argv(qemu.argv, kernel, cpu_model("kvm", qemu.version))
        with log.step("trying KVM") as step:
            log.debug(shlex.join(argv))
            trial = await try_boot(argv)
            step.update(trial.reason)
        store.write(trial)
        return trial


def boot_argv(qemu: tuple[str, ...], kernel: Path, model: str) -> list[str]:
    """Return the trial's command line: a kernel without a root, which ends by itself in a panic."""
    return [
        *qemu,
        *("-name", "vpctl-trial", "-machine", "q35", "-accel", "kvm", "-cpu", model),
        *("-smp", "cpus=1,maxcpus=2", "-m", "256M", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-kernel", str(kernel)),
        *("-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
        *("-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0"),
    ]


async def try_boot(argv: list[str], *, silence: float = SILENCE_LIMIT, limit: float = BOOT_LIMIT) -> Trial:
    """Boot a kernel and say how it went; the process and all that it started are gone afterwards."""
    began = time.monotonic()
    seen: list[str] = []
    try:
        async with asyncio.timeout(limit), running(argv, grace=0.5) as process:
            assert process.stdout is not None
            while line := await asyncio.wait_for(process.stdout.readline(), silence):
                seen.append(line.decode(errors="replace").strip())
                if KERNEL_STARTED.search(seen[-1]):
                    took = time.monotonic() - began
                    return Trial(works=True, reason=f"a trial boot under KVM took {took:.1f} s")
            status = await asyncio.wait_for(process.wait(), silence)
    except TimeoutError:
        return _hung(seen, silence)
    except OSError as error:
        return Trial(works=False, reason=f"QEMU cannot be started: {error.strerror}")
    said = next((line for line in reversed(seen) if line), "no message")
    reason = f"QEMU {describe_status(status)} in a trial boot: {said}"
    return Trial(works=False, reason=reason, hint=BAD_KVM)


def _hung(seen: list[str], silence: float) -> Trial:
    kernel_lines = [line for line in seen if KERNEL_SPEAKS.search(line)]
    if kernel_lines:
        reason = f"a trial boot under KVM stopped at `{kernel_lines[-1]}`"
    else:
        reason = f"in a trial boot under KVM the guest printed nothing in {silence:g} s"
    return Trial(works=False, reason=reason, hint=BAD_KVM)


def _now() -> float:
    """Seconds since the host's boot, sleep included: it cannot be set, and verdicts are kept per boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _store(qemu: QemuInfo, kernel: Path, cache: Path) -> _Store:
    return _Store(cache / "accelerator.json", key=f"{qemu.identity} {identify_files([kernel])} {os.getuid()}")


class _Store:
    """The remembered verdicts of this user: one file, an entry per QEMU and kernel, all of one boot of the host."""

    def __init__(self, path: Path, *, key: str) -> None:
        self.path = path
        self._key = key

    def read(self, *, since: float = 0.0) -> Trial | None:
        """Return what was found, unless it is too old."""
        entry: Any = self._entries().get(self._key)
        try:
            trial = Trial(works=bool(entry["works"]), reason=str(entry["reason"]), hint=entry["hint"])
            at = float(entry["at"])
        except (TypeError, KeyError, ValueError):
            return None
        expired = not trial.works and _now() - at > NEGATIVE_LIFETIME
        return None if expired or at < since else trial

    def write(self, trial: Trial) -> None:
        """Remember; without room on the disk the next one tries again, and that is all."""
        entry = {"works": trial.works, "reason": trial.reason, "hint": trial.hint, "at": _now()}
        with contextlib.suppress(OSError, HostError):
            cache_directory(self.path.parent)
            write_json(self.path, {"boot": host_boot_id(), "verdicts": {**self._entries(), self._key: entry}})

    def _entries(self) -> dict[str, Any]:
        data = read_json(self.path)
        if not isinstance(data, dict) or data.get("boot") != host_boot_id():
            return {}
        verdicts = data.get("verdicts")
        return verdicts if isinstance(verdicts, dict) else {}


@asynccontextmanager
async def _turn(lock: Path) -> AsyncIterator[None]:
    """Hold a lock without blocking the loop meanwhile; where none can be made, go without."""
    with ExitStack() as held:

        async def attempt() -> bool | None:
            try:
                cache_directory(lock.parent)
                held.enter_context(locked(lock))
            except UsageError:
                return None
            except OSError:
                return False
            return True

        await until(attempt, timeout=2 * BOOT_LIMIT, what="another vpctl's trial of KVM")
        yield
