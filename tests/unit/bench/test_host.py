"""The fingerprint of a host."""

from __future__ import annotations

import os
from pathlib import Path

from tests.made import PAIR, made_machine
from vpctl.bench.host import cpu_model, host_record, load_average

CPUINFO = "processor\t: 0\nvendor_id\t: Some\nmodel name\t: Some CPU: 3 GHz\n\nprocessor\t: 1\nmodel name\t: Other\n"
MEMINFO = "MemTotal:       16318412 kB\nMemFree:         1000000 kB\n"


def made_proc(directory: Path, *, cpuinfo: str = CPUINFO, meminfo: str = MEMINFO) -> Path:
    (directory / "cpuinfo").write_text(cpuinfo)
    (directory / "meminfo").write_text(meminfo)
    return directory


def test_a_host_is_its_cpu_memory_kernel_and_guests(tmp_path: Path) -> None:
    machines = [made_machine(PAIR, vm) for vm in PAIR.vms]
    record = host_record(machines, {"vm1": "6.1.0"}, before=(0.5, 0.25, 0.1), proc=made_proc(tmp_path))
    assert record.cpu == "Some CPU: 3 GHz"
    assert record.memory == 16318412 * 1024
    assert record.cores >= 1
    assert record.kernel
    assert record.load_before == (0.5, 0.25, 0.1)
    assert [(vm.name, vm.kernel) for vm in record.vms] == [("vm1", "6.1.0"), ("vm2", "")]
    assert (record.vms[0].qemu_version, record.vms[0].accelerator) == ("7.2.22", "tcg")
    assert (record.vms[0].machine, record.vms[0].cpus, record.vms[0].memory) == ("q35", 1, 256 << 20)


def test_a_cpu_without_a_name_is_told_as_its_architecture(tmp_path: Path) -> None:
    proc = made_proc(tmp_path, cpuinfo="processor\t: 0\nBogoMIPS\t: 50.00\n", meminfo="")
    assert cpu_model(proc) == os.uname().machine
    assert host_record([], {}, before=load_average(), proc=proc).memory == 0


def test_this_host_has_a_fingerprint() -> None:
    record = host_record([], {}, before=load_average())
    assert record.cpu
    assert record.memory > 0
