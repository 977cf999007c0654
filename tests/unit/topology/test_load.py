"""Structure and types: what a file may say, what it comes to, and how a mistake is reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.topology.loading import HEAD, KINDS, VMS, links, loaded, problems
from vpctl.errors import TopologyError
from vpctl.topology.load import load
from vpctl.topology.model import HealthSpec, ImageSpec, RecoverySpec, VmSpec, mac_address
from vpctl.topology.problems import MOST_PROBLEMS

ROOT = Path(__file__).parents[3]


def vm1(text: str, **environ: str) -> VmSpec:
    """Load a file whose VM `vm1` is `text`."""
    return loaded(f"{HEAD}vms: {{vm1: {text}}}", **environ).vm("vm1")


def problem(text: str) -> str:
    """Return the one problem of a VM without its place."""
    (found,) = problems(f"{HEAD}vms: {{vm1: {text}}}")
    return found.split(" ", 1)[1]


def test_fills_in_every_default() -> None:
    topology = loaded(links("lan0: {kind: shared, endpoints: [vm2, vm1]}"))
    assert topology.name == "pair"
    assert topology.vms == (VmSpec(name="vm1"), VmSpec(name="vm2"))
    (link,) = topology.links
    assert [end.vm for end in link.endpoints] == ["vm2", "vm1"]
    assert [str(end.address) for end in link.endpoints] == ["10.77.0.1/30", "10.77.0.2/30"]
    assert link.endpoints[0].mac == mac_address("pair", "lan0", "vm2")
    assert link.recovery == RecoverySpec(policy="relink", mode="auto", on_stuck="fail")
    assert (link.queues, link.mtu) == (1, 1500)
    assert link.options == {"size": 4 << 20, "vectors": 2, "label": "", "polling": False}


def test_takes_every_key() -> None:
    text = """
version: 1
name: pair
defaults: {image: micro, memory: 256M, cpus: 2, health: {heartbeat: 5s, retries: 7}}
vms:
  vm1:
    memory: 1.5G
    accelerator: tcg
    machine: pc
    qemu: bin/qemu
    qemu_args: -device 'a b' -s
    kernel_args: >
      quiet
      debug
    health: {qmp_timeout: 500ms, backoff: 2m, retries: 0}
  vm2: {image: {kernel: vmlinuz, initrd: /i, disk: ~/d.img, ssh_user: me, ssh_key: ../k}, qemu_args: [-s], qemu: q}
links:
  lan0:
    kind: shared
    endpoints: [vm1, vm2]
    subnet: 192.168.5.0/24
    queues: 4
    mtu: 9000
    recovery: {mode: manual, policy: replug, on_stuck: reset-survivor}
    size: 1M
    vectors: 4
    label: on
    polling: true
"""
    topology = loaded(text, HOME="/home/me")
    assert topology.vm("vm1") == VmSpec(
        name="vm1",
        memory=1536 << 20,
        cpus=2,
        accelerator="tcg",
        machine="pc",
        qemu="/base/bin/qemu",
        qemu_args=("-device", "a b", "-s"),
        kernel_args="quiet debug",
        health=HealthSpec(heartbeat=5.0, qmp_timeout=0.5, retries=0, backoff=120.0),
    )
    image = ImageSpec(
        name=None,
        kernel="/base/vmlinuz",
        initrd="/i",
        disk="/home/me/d.img",
        ssh_user="me",
        ssh_key="/base/../k",
    )
    health = HealthSpec(heartbeat=5.0, retries=7)
    assert topology.vm("vm2") == VmSpec(name="vm2", cpus=2, image=image, qemu_args=("-s",), qemu="q", health=health)
    (link,) = topology.links
    assert [str(end.address) for end in link.endpoints] == ["192.168.5.1/24", "192.168.5.2/24"]
    assert link.recovery == RecoverySpec(policy="replug", mode="manual", on_stuck="reset-survivor")
    assert (link.queues, link.mtu) == (4, 9000)
    assert link.options == {"size": 1 << 20, "vectors": 4, "label": "on", "polling": True}


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("256M", 256 << 20), ("1G", 1 << 30), ("1.5G", 3 << 29), ("393216K", 384 << 20), ("268435456", 256 << 20)],
)
def test_reads_sizes(text: str, bytes_: int) -> None:
    assert vm1(f"{{memory: {text}}}").memory == bytes_
    assert vm1(f"{{memory: '{text}'}}").memory == bytes_


def test_a_number_may_come_from_the_environment() -> None:
    text = f"{HEAD}vms:\n  vm1:\n    cpus: ${{CPUS:-2}}\n    memory: ${{MEMORY}}\n"
    assert loaded(text, MEMORY="128M").vm("vm1") == VmSpec(name="vm1", cpus=2, memory=128 << 20)
    assert problems(text) == [
        "6:13 environment variable `MEMORY` is not set (set it, or give a default: `${MEMORY:-default}`)"
    ]


def test_names_that_yaml_1_1_takes_for_something_else_are_names() -> None:
    topology = loaded(
        HEAD.replace("pair", "off") + "vms: {on: , no: }\nlinks: {y: {kind: wire, endpoints: [on, no]}}"
    )
    assert topology.name == "off"
    assert [end.vm for end in topology.link("y").endpoints] == ["on", "no"]


def test_links_and_defaults_may_be_empty_or_missing() -> None:
    assert loaded(HEAD + VMS) == loaded(HEAD + "defaults:\n" + VMS + "links:\n")


@pytest.mark.parametrize(
    ("vm", "expected"),
    [
        ("{memory: 256}", "`memory`: `256` is too small for a guest to boot in (did you mean `256M`?)"),
        ("{memory: 64M}", "`memory`: `64M` is too small for a guest to boot in (at least `96M`)"),
        ("{memory: 2048G}", "`memory`: `2048G` is more than a VM can address (at most `1024G`)"),
        ("{memory: 262145K}", "`memory`: `262145K` is not a multiple of 1 MiB (for instance `256M`)"),
        ("{memory: 256MiB}", "`memory`: `256MiB` is not a size (did you mean `256M`? K, M and G are powers of 1024)"),
        ("{memory: true}", "`memory`: `true` is not a size (for instance `256M` or `1.5G`)"),
        ("{memory: }", "`memory`: `null` is not a size (for instance `256M` or `1.5G`)"),
        ("{memory: [1]}", "`memory`: `[1]` is not a size (for instance `256M` or `1.5G`)"),
        ("{cpus: 0}", "`cpus`: `0` is too small (at least 1)"),
        ("{cpus: 256}", "`cpus`: `256` is too large (at most 255)"),
        ("{cpus: '2'}", "`cpus`: expected an integer, got the string `2` (write it without quotes)"),
        ("{cpus: 1.5}", "`cpus`: expected an integer, got `1.5`"),
        ("{cpus: yes}", "`cpus`: expected an integer, got the string `yes`"),
        ("{cpus: true}", "`cpus`: expected an integer, got `true`"),
        (
            "{accelerator: kvn}",
            "`accelerator`: `kvn` is not known (did you mean `kvm`? values are `auto`, `kvm`, `tcg`)",
        ),
        ("{machine: 1}", "`machine`: expected one of `q35`, `pc`, got `1`"),
        ("{health: {heartbeat: 10}}", "`health.heartbeat`: `10` is not a duration (did you mean `10s`?)"),
        (
            "{health: {heartbeat: 2s}}",
            "`health.heartbeat`: `2s` is too short for a guest that beats once a second (at least `3s`)",
        ),
        ("{health: {backoff: 0s}}", "`health.backoff`: `0s` is out of range (from `1ms` to `24h`)"),
        ("{health: 3}", "`health`: expected a mapping, got `3`"),
        ("{qemu_args: [a, 3]}", "`qemu_args`: expected a string, got `3` (put it in quotes to make it a string)"),
        ("{qemu_args: 3}", "`qemu_args`: expected a list, got `3`"),
        (
            '{qemu_args: "a \'b"}',
            "`qemu_args`: cannot be split into arguments: no closing quotation (quote it as in a shell)",
        ),
        ("{qemu: ''}", "`qemu`: must not be empty"),
        ("{kernel_args: [a]}", "`kernel_args`: expected a string, got a list"),
        ("{image: mirco}", "no image named `mirco` (did you mean `micro`? known is `micro`)"),
        (
            "{image: ./vmlinuz}",
            "no image named `./vmlinuz` "
            "(an image of your own is a mapping: `image: {kernel: …, initrd: …, disk: …}`)",
        ),
        ("{image: {disk: d}}", "`image`: key `kernel` is missing (an image of your own needs at least a kernel)"),
        ("{image: {kernel: k, ssh_user: A}}", "`image.ssh_user`: `A` is not valid (for instance `root`)"),
        (
            "{image: {kernel: k, ssh_usr: a}}",
            "`image`: unknown key `ssh_usr` "
            "(did you mean `ssh_user`? keys are `kernel`, `initrd`, `disk`, `ssh_user`, `ssh_key`)",
        ),
        (
            "{health: {retry: 1}}",
            "`health`: unknown key `retry` "
            "(did you mean `retries`? keys are `heartbeat`, `qmp_timeout`, `retries`, `backoff`)",
        ),
    ],
)
def test_explains_a_wrong_vm(vm: str, expected: str) -> None:
    separator = " " if expected.startswith("no image") else ": "
    assert problem(vm) == f"VM `vm1`:{separator[1:] or ' '}{expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1 the file is empty (a topology begins with `version: 1`)"]),
        ("# nothing", ["1:1 the file is empty (a topology begins with `version: 1`)"]),
        ("[]", ["1:1 the file: expected a mapping, got a list"]),
        ("hello", ["1:1 the file: expected a mapping, got the string `hello`"]),
        (
            "{}",
            [
                "1:1 key `version` is missing (begin the file with `version: 1`)",
                "1:1 key `name` is missing (for instance `name: pair`)",
                "1:1 key `vms` is missing (for instance `vms: {vm1: {}, vm2: {}}`)",
            ],
        ),
        (
            "version: 2\nname: pair\n" + VMS,
            ["1:10 `version`: `2` is not a version that is known (write `version: 1`)"],
        ),
        (
            "version: true\nname: pair\n" + VMS,
            ["1:10 `version`: `true` is not a version that is known (write `version: 1`)"],
        ),
        (
            "version: 1\nname: My_Pair\n" + VMS,
            [
                "2:7 `name`: `My_Pair` is not a name "
                "(did you mean `my-pair`? lower-case letters, digits and `-`, a letter first, at most 31)"
            ],
        ),
        (
            HEAD + "vms: {}",
            ["3:6 `vms`: at least one VM is needed (for instance `vms: {vm1: {}, vm2: {}}`)"],
        ),
        (HEAD + "vms: [vm1]", ["3:6 `vms`: expected a mapping, got a list"]),
        (
            HEAD + "vms: {vm1: , vm1: }",
            ["3:14 key `vm1` is given twice (first on line 3)"],
        ),
        (
            HEAD + VMS + "link: {}",
            ["4:1 unknown key `link` (did you mean `links`? keys are `version`, `name`, `defaults`, `vms`, `links`)"],
        ),
        (
            links("eth0: {kind: wire, endpoints: [vm1, vm2]}"),
            ["5:3 `links`: `eth0` is taken in every guest (choose another name, for instance `lan0`)"],
        ),
        (
            links("sixteen-letters-: {kind: wire, endpoints: [vm1, vm2]}"),
            [
                "5:3 `links`: `sixteen-letters-` is not a name (did you mean `sixteen-letters`? "
                "lower-case letters, digits and `-`, a letter first, at most 15)"
            ],
        ),
        (
            links("lan0: {}"),
            [
                "5:3 link `lan0`: key `kind` is missing (kinds are `wire`, `shared`)",
                "5:3 link `lan0`: key `endpoints` is missing (for instance `endpoints: [vm1, vm2]`)",
            ],
        ),
    ],
)
def test_explains_a_wrong_file(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_reports_mistakes_of_every_sort_in_one_run_in_the_order_of_the_file() -> None:
    text = """version: 3
defaults: {imag: micro}
vms:
  vm1: {memory: 12Q, image: mirco}
  Vm2: {cpus: 0, cpus: 1}
  vm3: *x
links:
  lan0: {kind: wire, endpoints: [vm1, vm4], size: 1M, subnet: 10.0.0.1/30}
  lan1: {kind: wure, endpoints: [vm1, vm1], mtu: big}
  lan2: {endpoints: [vm3, Vm2], recovery: {policy: x}}
"""
    assert [found.split(" (")[0] for found in problems(text)] == [
        "1:1 key `name` is missing",
        "1:10 `version`: `3` is not a version that is known",
        "2:12 `defaults`: unknown key `imag`",
        "4:17 VM `vm1`: `memory`: `12Q` is not a size",
        "4:29 VM `vm1`: no image named `mirco`",
        "5:3 `vms`: `Vm2` is not a name",
        "5:15 VM `Vm2`: `cpus`: `0` is too small",
        "5:18 key `cpus` is given twice",
        "6:8 aliases",
        "8:39 link `lan0`: no VM named `vm4`",
        "8:45 link `lan0`: key `size` is not for kind `wire`",
        "8:63 link `lan0`: subnet `10.0.0.1/30` has host bits set",
        "9:16 link `lan1`: no kind named `wure`",
        "9:39 link `lan1`: both endpoints are `vm1`",
        "9:50 link `lan1`: `mtu`: expected an integer, got the string `big`",
        "10:3 link `lan2`: key `kind` is missing",
    ]


def test_names_the_file_in_every_place() -> None:
    with pytest.raises(TopologyError) as caught:
        loaded("version: 1\nvms: {vm1: }", file="some/My Lab.yaml")
    assert caught.value.where == "some/My Lab.yaml:1:1"
    assert caught.value.hint == "for instance `name: my-lab`"


def test_a_hopeless_file_is_cut_short() -> None:
    text = HEAD + VMS + "".join(f"key{number}: 1\n" for number in range(10 * MOST_PROBLEMS))
    assert len(problems(text)) == MOST_PROBLEMS


def test_messages_stay_on_one_printable_line() -> None:
    (found,) = problems(HEAD + 'vms: {vm1: {"a\\nb\\u200b' + "x" * 500 + '": 1}}')
    assert found.startswith("3:13 VM `vm1`: unknown key `a\\nb\\u200bxxx")
    assert len(found) < 300
    assert found.isprintable()


def test_images_are_those_that_are_given() -> None:
    text = HEAD + "vms: {vm1: {image: maxi}}"
    topology = load(text, file="f", kinds=KINDS, environ={}, base=Path("/"), images=("micro", "maxi"))
    assert topology.vm("vm1").image == ImageSpec(name="maxi")


def test_the_model_needs_neither_yaml_nor_pydantic() -> None:
    source = "import sys, vpctl.topology.model; sys.exit(any(m in sys.modules for m in ('yaml', 'pydantic')))"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=False)
    assert done.returncode == 0
