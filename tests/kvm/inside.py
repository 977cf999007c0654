"""Runs on the host with KVM, nested or not: makes KVM ready, runs the tests, and writes down where they ran."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NESTED_MODULES = ("vhost_net", "tun")
PATIENCE = 4
"""How many times longer than by TCG on the bare host a guest's boot may take where a TCG emulates the CPU's KVM."""


def main(words: Sequence[str] | None = None) -> int:
    """Run pytest, or another command, under KVM; the exit code is its own, 3 where there is no KVM."""
    parser = argparse.ArgumentParser(prog="tests.kvm.inside", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--bare", action="store_true", help="this host is no nested one: load nothing")
    parser.add_argument("--command", help="a shell command in place of pytest")
    parser.add_argument("arguments", nargs="*", help="of pytest")
    given = parser.parse_args(words)
    given.results.mkdir(parents=True, exist_ok=True)
    if not given.bare:
        load_modules()
    if not Path("/dev/kvm").exists():
        print("there is no /dev/kvm: the CPU of this host has no SVM or VMX, or nesting is off", file=sys.stderr)
        return 3
    known = facts()
    print(describe(known), flush=True)
    (given.results / "host.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    environ = {**os.environ, "VPCTL_ACCELERATOR": "kvm", "NO_COLOR": "1", "VPCTL_TEST_RESULTS": str(given.results)}
    if not given.bare and known["hypervisor"] == "tcg":
        environ["VPCTL_TEST_PATIENCE"] = str(PATIENCE)
        environ["PATH"] = f"{keep_guests_on_one_cpu()}:{environ['PATH']}"
    if given.command is not None:
        status = subprocess.run(["sh", "-c", given.command], env=environ, check=False).returncode
    else:
        junit = given.results / "junit.xml"
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={junit}", *given.arguments]
        status = subprocess.run(pytest, env=environ, check=False).returncode
    with (given.results / "dmesg.txt").open("wb") as stream:
        subprocess.run(["dmesg"], stdout=stream, stderr=subprocess.DEVNULL, check=False)
    return status


def load_modules() -> None:
    """Load KVM's module for this CPU, and those of taps."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kvm = "kvm_amd" if re.search(r"\bsvm\b", flags) else "kvm_intel"
    for module in (kvm, *NESTED_MODULES):
        subprocess.run(["modprobe", module], check=False)


def keep_guests_on_one_cpu() -> str:
    """Return a directory for PATH, whose QEMU runs on the first CPU only.

    Where KVM is emulated by TCG, one in four of the guests that run on two CPUs at once hangs or resets early in its
    boot, and the host's own kernel panics now and then (QEMU 7.2 and 10.0, with one thread for both CPUs too).
    """
    qemu = Path("bin/qemu-system-x86_64").absolute()
    qemu.parent.mkdir(exist_ok=True)
    qemu.write_text(f'#!/bin/sh\nexec taskset -c 0 {shutil.which(qemu.name)} "$@"\n', encoding="utf-8")
    qemu.chmod(0o755)
    return str(qemu.parent)


def facts() -> dict[str, Any]:
    """Return what a reader of results must know of the host: kernel, CPU, QEMU, and how KVM is set up."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    release = platform.freedesktop_os_release()
    return {
        "schema_version": 1,
        "distribution": release.get("PRETTY_NAME", "?"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": model[1] if model else "?",
        "cpus": os.cpu_count(),
        "hypervisor": _hypervisor(cpuinfo),
        "qemu": _first_line([os.environ.get("VPCTL_QEMU") or "qemu-system-x86_64", "--version"]),
        "kvm": {module: _parameters(module) for module in ("kvm", "kvm_amd", "kvm_intel") if _is_loaded(module)},
    }


def describe(known: dict[str, Any]) -> str:
    """Return the facts in a line."""
    module = next((name for name in ("kvm_amd", "kvm_intel") if name in known["kvm"]), "KVM built in")
    where = f"{known['distribution']}, Linux {known['kernel']}, {module}, {known['qemu']}, {known['cpus']} CPUs"
    match known["hypervisor"]:
        case "":
            return f"under KVM: {where}"
        case "tcg":
            return f"under KVM: {where}, emulated by TCG"
        case other:
            return f"under KVM: {where}, itself a guest of {other}"


def _hypervisor(cpuinfo: str) -> str:
    """Return what this host is a guest of: `tcg`, another's vendor, or nothing where it is none."""
    if "hypervisor" not in cpuinfo:
        return ""
    if "QEMU TCG CPU" in cpuinfo:
        return "tcg"
    vendor = Path("/sys/class/dmi/id/sys_vendor")
    return vendor.read_text(encoding="utf-8").strip() if vendor.exists() else "a hypervisor"


def _is_loaded(module: str) -> bool:
    return Path("/sys/module", module).is_dir()


def _parameters(module: str) -> dict[str, str]:
    found = {}
    for path in sorted(Path("/sys/module", module, "parameters").glob("*")):
        try:
            found[path.name] = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return found


def _first_line(argv: list[str]) -> str:
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else "?"


if __name__ == "__main__":
    sys.exit(main())
