"""Arguments for QEMU that break what vpctl relies on are refused by name and place; others are not."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.unit.topology.loading import HEAD, loaded, problems
from vpctl.errors import HostError
from vpctl.qemu.probe import find_qemu
from vpctl.topology.qemu_args import refused, refused_in_command


def words(args: str) -> list[str]:
    return [found.word for found in refused(shlex.split(args))]


@pytest.mark.parametrize(
    "option",
    [
        *("-daemonize", "-S", "-preconfig", "-incoming", "-loadvm", "-no-shutdown", "-no-reboot", "-sandbox", "-qmp"),
        *("-qmp-pretty", "-chroot", "-runas", "-run-with", "-async-teardown", "-name", "-accel", "-enable-kvm"),
        *("-kernel", "-initrd", "-append", "-no-acpi", "-readconfig", "-version", "-help", "-h"),
    ],
)
def test_refuses_an_option_with_one_dash_and_with_two(option: str) -> None:
    assert words(f"-device x {option} y") == [option]
    assert words(f"-{option}") == [f"-{option}"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("-machine pc", "type"),
        ("-M type=pc,hpet=off", "type"),
        ("-machine hpet=off,accel=kvm", "chooses"),
        ("-machine memory-backend=mine", "memory"),
        ("-machine acpi=off", "ACPI"),
        ("-smp 4", "CPUs"),
        ("-smp sockets=1,maxcpus=4", "CPUs"),
        ("-m 1G", "memory"),
        ("-m size=1G,slots=2", "memory"),
        ("-action panic=none", "faults"),
        ("-action watchdog=reset,reboot=reset", "faults"),
        ("-monitor stdio", "terminal"),
        ("-serial mon:stdio", "terminal"),
        ("-chardev stdio,id=mine", "terminal"),
        ("-monitor unix:/tmp/monitor,server", "wait for a client"),
        ("-chardev socket,id=mine,path=/tmp/x,server=on", "wait for a client"),
        ("-serial tcp:127.0.0.1:4444,server=on,wait=on", "wait for a client"),
    ],
)
def test_refuses_some_values_of_other_options(args: str, why: str) -> None:
    (found,) = refused(shlex.split(args))
    assert why in found.reason
    assert found.word == args


@pytest.mark.parametrize(
    "args",
    [
        *("-trace enable=virtio_*", "-s", "-device i6300esb -watchdog-action reset", "-cpu max,-avx2"),
        *("-machine hpet=off,kernel-irqchip=split", "-smp sockets=1,cores=2", "-m slots=2,maxmem=4G", "-bios b"),
        *("-action watchdog=pause", "-monitor none", "-monitor unix:/tmp/monitor,server,nowait", "-snapshot"),
        *("-chardev socket,id=mine,path=/tmp/x,server=on,wait=off", "-chardev socket,id=mine,path=/tmp/x"),
        *("-serial file:/tmp/second", "-pidfile /tmp/p", "-gdb tcp::1234", "-drive file=S,if=none,id=more", "-m", ""),
    ],
)
def test_leaves_others_alone(args: str) -> None:
    assert words(args) == []


def test_names_the_argument_where_it_stands() -> None:
    listed = HEAD + "vms:\n  vm1:\n    qemu_args: [-s, -S]\n  vm2: {qemu_args: -s -daemonize}\n"
    assert problems(listed) == [
        "5:21 VM `vm1`: `-S` in `qemu_args`: the guest would never start "
        "(`vpctl qmp VM stop` pauses a guest that runs)",
        "6:20 VM `vm2`: `-daemonize` in `qemu_args`: QEMU would leave the process that vpctl watches, "
        "and run on after `down` (leave it out)",
    ]


def test_names_it_once_where_it_stands_in_the_defaults() -> None:
    shared = HEAD + "defaults: {qemu_args: [-no-shutdown]}\nvms: {vm1: , vm2: }\n"
    (only,) = problems(shared)
    assert only.startswith("3:24 `defaults`: `-no-shutdown` in `qemu_args`: ")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("qemu-system-x86_64 -daemonize", "-daemonize"),
        ("/opt/q/bin/qemu-system-x86_64 -L /opt/q/share --no-shutdown", "--no-shutdown"),
        ("ld.so --library-path /q/lib /q/qemu-kvm -m 1G", "-m 1G"),
        ("numactl -m 0 nice -n 5 qemu-system-x86_64 -S", "-S"),
    ],
)
def test_refuses_the_same_words_where_they_stand_in_the_command(command: str, found: str) -> None:
    (only,) = problems(HEAD + f"vms: {{vm1: {{qemu: '{command}'}}}}\n")
    assert only.startswith(f"3:19 VM `vm1`: `{found}` in `qemu`: ")
    with pytest.raises(HostError, match=f"`{found}` in VPCTL_QEMU: "):
        find_qemu(None, {"VPCTL_QEMU": f"env {command}", "PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize(
    "command",
    [
        "qemu-system-x86_64",
        "strace -f -S time qemu-system-x86_64 -L /q",
        "bwrap --ro-bind /q/qemu /m -h kvm",
        "/x/y -S",
    ],
)
def test_leaves_a_wrappers_words_alone(command: str) -> None:
    assert list(refused_in_command(shlex.split(command))) == []


def test_takes_what_has_to_do_with_none_of_them() -> None:
    text = HEAD + f"vms: {{vm1: {{qemu_args: {json.dumps(['-trace', 'enable=virtio_*'])}}}}}\n"
    assert loaded(text).vm("vm1").qemu_args == ("-trace", "enable=virtio_*")
