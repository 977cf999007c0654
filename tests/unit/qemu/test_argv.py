"""Command lines, whole, against files; and the rules that each option is there for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.golden import assert_golden
from tests.made import BOOT, made_machine, made_topology
from vpctl.guest.config import config_paths
from vpctl.qemu.argv import MachineSpec, accel_option, machine_argv, machine_from_json, machine_to_json, quote_option
from vpctl.qemu.memory import OVERHEAD
from vpctl.rundir import RunDir
from vpctl.topology.model import ImageSpec, VmSpec

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))
LINKS = [("lan0", "vm1", "vm2"), ("wan0", "vm2", "vm1"), ("far0", "vm2", "vm3")]
OWN = ImageSpec(name=None, kernel="/own/bzImage", disk="/own/disk.qcow2", ssh_user="debian", ssh_key="/own/key")
OWN_BOOT = replace(
    BOOT,
    kernel="/own/bzImage",
    initrd=None,
    disk="/own/disk.qcow2",
    disk_format="qcow2",
    disk_overlay=True,
    kernel_args="",
)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "q35": ({}, {}),
    "pc": ({"machine": "pc", "cpus": 4, "memory": 1 << 30}, {}),
    "own-image": ({"image": OWN, "kernel_args": "root=/dev/vda1 rw"}, {"boot": OWN_BOOT}),
    "kvm": ({}, {"accelerator": "kvm", "cpu_model": "host"}),
    "no-sandbox": ({}, {"sandbox": False}),
    "more-arguments": (
        {"qemu_args": ("-trace", "enable=virtio_*"), "kernel_args": "loglevel=7 quiet"},
        {"qemu": ("/opt/qemu", "-L", "/opt/share")},
    ),
    "commas": ({}, {"boot": replace(BOOT, disk="/i,mages/root,1.squashfs")}),
}


def machine(vm: dict[str, Any], spec: dict[str, Any]) -> MachineSpec:
    made = VmSpec(name="vm1", **vm)
    return made_machine(made_topology(*LINKS, vms=[made]), made, **spec)


def argv(spec: MachineSpec, rundir: RunDir = RUNDIR, generation: int = 3) -> list[str]:
    config = config_paths(rundir, spec.vm.name)
    return machine_argv(spec, topology="pair", rundir=rundir, generation=generation, config=config)


def lines(words: list[str]) -> str:
    """Put each option on a line, with its value."""
    text = ""
    for word in words:
        text += f"\n{word}" if word.startswith("-") else f" {word}" if text else word
    return text + "\n"


@pytest.mark.parametrize("name", CASES)
def test_a_command_line_is_the_one_that_was_read_and_approved(name: str) -> None:
    rundir = replace(RUNDIR, run=Path("/r,un/pair"), state=Path("/st,ate/pair")) if name == "commas" else RUNDIR
    assert_golden(f"argv/{name}.txt", lines(argv(machine(*CASES[name]), rundir)))


def test_code_that_qemu_has_translated_stays_within_what_is_reckoned_for_it() -> None:
    room = re.search(r"tb-size=(\d+)", accel_option("tcg"))
    assert room is not None
    assert int(room[1]) << 20 < OVERHEAD  # without the option it is up to 1 GiB
    assert accel_option("kvm") == "kvm"


def test_memory_that_a_peer_maps_is_all_of_a_machines_and_a_file_that_it_shares() -> None:
    spec = machine({"memory": 384 << 20}, {})
    words = machine_argv(spec, topology="pair", rundir=RUNDIR, generation=3, config={}, ram="/proc/self/fd/7")
    assert words[words.index("-machine") + 1] == "q35,memory-backend=ram"
    assert words[words.index("-m") + 1] == "384M"
    assert "memory-backend-file,id=ram,mem-path=/proc/self/fd/7,size=384M,share=on" in words


@pytest.mark.parametrize("name", CASES)
def test_no_word_is_empty_and_the_users_own_come_last(name: str) -> None:
    vm, spec = CASES[name]
    words = argv(machine(vm, spec))
    assert all(words)
    own = list(vm.get("qemu_args", ()))
    assert words[len(words) - len(own) :] == own
    assert words[: len(spec.get("qemu", ("x",)))] == list(spec.get("qemu", ("qemu-system-x86_64",)))


@pytest.mark.parametrize("name", CASES)
def test_what_was_decided_comes_back_from_json_as_it_was(name: str) -> None:
    spec = machine(*CASES[name])
    assert machine_from_json(spec.vm, machine_to_json(spec)) == spec


def test_no_disk_and_no_initrd_give_no_option() -> None:
    words = argv(machine({}, {"boot": replace(BOOT, disk=None, initrd=None)}))
    assert "-drive" not in words
    assert "-initrd" not in words
    assert not any("virtio-blk" in word for word in words)


def test_a_kernel_argument_of_image_and_vpctl_is_there_once_and_the_users_come_last_as_they_are() -> None:
    boot = replace(BOOT, kernel_args="console=ttyS0 quiet panic=-1")
    words = argv(machine({"kernel_args": "quiet  x='a b'"}, {"boot": boot}))
    assert words[words.index("-append") + 1] == "console=ttyS0 panic=-1 quiet quiet  x='a b'"


@pytest.mark.parametrize("cpus", [1, 2, 5])
def test_there_is_room_for_two_cpus_at_least(cpus: int) -> None:
    words = argv(machine({"cpus": cpus}, {}))
    assert words[words.index("-smp") + 1] == f"cpus={cpus},maxcpus={max(2, cpus)}"


def test_a_value_keeps_its_commas() -> None:
    assert quote_option("a,b,,c") == "a,,b,,,,c"


def test_each_generation_logs_to_a_file_of_its_own_and_nothing_else_changes() -> None:
    spec = machine({}, {})
    first, second = argv(spec, generation=1), argv(spec, generation=2)
    differing = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    assert len(differing) == 1
    assert "logfile=/state/v/pair/vms/vm1/1/serial.log" in differing[0][0]
    assert "logfile=/state/v/pair/vms/vm1/2/serial.log" in differing[0][1]
