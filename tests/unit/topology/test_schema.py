"""The JSON Schema and the parser judge alike; what only the parser can know is listed here, and is all there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.topology.loading import HEAD, KINDS, VMS, links, loaded
from vpctl.errors import TopologyError
from vpctl.topology.document import Plain, parse
from vpctl.topology.model import Key, KindRules
from vpctl.topology.problems import Problems
from vpctl.topology.raw import FileRaw, HealthRaw, ImageRaw, LinkRaw, RecoveryRaw, VmRaw
from vpctl.topology.schema import schema

REFERENCE = Path(__file__).parents[3] / "docs/topology.md"
ENVIRON = {"CPUS": "2", "KIND": "shared"}


def vm(text: str) -> str:
    return f"{HEAD}vms: {{vm1: {text}}}\n"


def link(text: str, kind: str = "shared") -> str:
    return links(f"lan0: {{kind: {kind}, endpoints: [vm1, vm2], {text}}}")


VALID = [
    HEAD + VMS,
    HEAD + VMS + "links:\ndefaults:\n",
    HEAD + "vms: {vm1: {}, vm2: null}\ndefaults: {memory: 1G}\nlinks: {}",
    vm("{image: micro, memory: 128M, cpus: 255, accelerator: kvm, machine: pc, qemu: q, kernel_args: ''}"),
    vm("{memory: 268435456, qemu_args: [a, b], health: {heartbeat: 3.5s, retries: 0}}"),
    vm("{qemu_args: a b, qemu: null, health: {}}"),
    vm("{image: {kernel: k, initrd: i, disk: d, ssh_user: u, ssh_key: null}}"),
    vm("{cpus: 0x10}"),
    f"{HEAD}vms:\n  vm1:\n    cpus: ${{CPUS:-2}}\n",
    f"{HEAD}vms:\n  vm1:\n    memory: ${{MEMORY:-256M}}\n    accelerator: ${{ACCELERATOR:-auto}}\n",
    f"{HEAD}{VMS}links:\n  lan0:\n    kind: ${{KIND}}\n    endpoints: [vm1, vm2]\n    vectors: ${{VECTORS:-3}}\n",
    link("size: 1M, vectors: 3, label: x, polling: true"),
    link("size: 4194304, queues: 4, mtu: 100"),
    link("subnet: 10.1.0.0/24, recovery: {mode: manual, policy: relink, on_stuck: fail}"),
    link("subnet: null, recovery: {policy: null}"),
    link("mtu: 65535, queues: 1, recovery: {}", kind="wire"),
]

WRONG_IN_STRUCTURE = [
    "[]",
    "{}",
    "version: 2\nname: pair\n" + VMS,
    "version: '1'\nname: pair\n" + VMS,
    "version: true\nname: pair\n" + VMS,
    "version: 1\n" + VMS,
    HEAD,
    HEAD + "vms: {}",
    HEAD + "vms:",
    HEAD + "vms: [vm1]",
    HEAD + "vms: {VM: }",
    HEAD + "vms: {vm1: 3}",
    "version: 1\nname: A\n" + VMS,
    "version: 1\nname: 1\n" + VMS,
    HEAD + VMS + "extra: 1",
    HEAD + VMS + "defaults: 3",
    HEAD + VMS + "defaults: {name: x}",
    HEAD + VMS + "links: []",
    links("lan0:"),
    links("lan0: {endpoints: [vm1, vm2]}"),
    links("lan0: {kind: wire}"),
    links("lo: {kind: wire, endpoints: [vm1, vm2]}"),
    links("a-name-that-is-too-long: {kind: wire, endpoints: [vm1, vm2]}"),
    links("lan0: {kind: wire, endpoints: vm1}"),
    links("lan0: {kind: wire, endpoints: [vm1]}"),
    links("lan0: {kind: wire, endpoints: [vm1, vm2, vm1]}"),
    links("lan0: {kind: wire, endpoints: [vm1, vm1]}"),
    links("lan0: {kind: wire, endpoints: [vm1, 2]}"),
    links("lan0: {kind: wirre, endpoints: [vm1, vm2]}"),
    *(
        vm(f"{{{text}}}")
        for text in (
            "memory: 1",
            "memory: 2199023255552",
            "memory: 1T",
            "memory: 1.5",
            "memory: true",
            "memory: null",
            "cpus: 0",
            "cpus: 256",
            "cpus: '1'",
            "cpus: true",
            "cpus: 1.5",
            "cpus: null",
            "accelerator: hvf",
            "accelerator: true",
            "machine: virt",
            "qemu: 3",
            "qemu: ''",
            "qemu_args: 3",
            "qemu_args: [3]",
            "kernel_args: 3",
            "kernel_args: null",
            "image: 3",
            "image: null",
            "image: {}",
            "image: {kernel: 3}",
            "image: {kernel: k, extra: 1}",
            "image: {kernel: k, ssh_user: 'a b'}",
            "health: null",
            "health: {heartbeat: 10}",
            "health: {heartbeat: 10 s}",
            "health: {heartbeat: 2.9s}",
            "health: {heartbeat: 500ms}",
            "health: {retries: -1}",
            "health: {retries: 101}",
            "health: {extra: 1}",
            "extra: 1",
        )
    ),
    *(
        link(text)
        for text in (
            "queues: 0",
            "queues: 5",
            "queues: '1'",
            "mtu: 99",
            "mtu: 9001",
            "mtu: 1500.5",
            "subnet: 10.0.0.0",
            "subnet: 3",
            "recovery: null",
            "recovery: {mode: never}",
            "recovery: {policy: resume}",
            "recovery: {policy: 3}",
            "recovery: {on_stuck: panic}",
            "recovery: {extra: 1}",
            "size: 0",
            "size: -1",
            "size: 3X",
            "size: null",
            "vectors: x",
            "vectors: true",
            "label: 1",
            "polling: 1",
            "extra: 1",
        )
    ),
    link("size: 1M", kind="wire"),
    link("label: x", kind="wire"),
    link("recovery: {policy: relink}", kind="wire"),
    link("queues: 2", kind="wire"),
]

BEYOND_A_SCHEMA = {
    "an unknown VM": links("lan0: {kind: wire, endpoints: [vm1, vm9]}"),
    "an unknown image (own ones have no names, but `images` grows without the schema)": vm("{image: maxi}"),
    "a size that no VM boots in, spelled with a unit": vm("{memory: 1M}"),
    "a size off the 1 MiB grid": vm("{memory: 268435457}"),
    "a size that is no whole number of bytes": link("size: 0.0001K"),
    "a duration out of range": vm("{health: {backoff: 0s}}"),
    "a heartbeat that is too short, in minutes": vm("{health: {heartbeat: 0.01m}}"),
    "arguments with an open quote": vm('{qemu_args: "a \'b"}'),
    "host bits in a subnet": link("subnet: 10.1.0.1/24"),
    "a subnet without room": link("subnet: 10.1.0.1/32"),
    "a subnet that is in use in every guest": link("subnet: 10.0.2.0/24"),
    "overlapping subnets": links(
        "a: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.0/24}\n"
        "b: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.0/30}"
    ),
    "a kind's rule for one key": link("size: 3M"),
    "a kind's rule for a whole link": link("size: 512M"),
    "more links than slots": links("\n".join(f"l{n}: {{kind: wire, endpoints: [vm1, vm2]}}" for n in range(25))),
    "an integer spelled as a float": vm("{cpus: 2.0}"),
}


def accepted_by_schema(text: str) -> bool:
    """Judge the file as an editor sees it: before `${…}` is expanded."""
    problems = Problems("f")
    root = parse(text.replace("${", "$${"), problems=problems, environ={})
    assert root is not None
    assert not problems
    value: Plain = root.plain()
    return bool(validator().is_valid(value))


def accepted_by_parser(text: str) -> bool:
    try:
        loaded(text, **ENVIRON)
    except TopologyError:
        return False
    return True


def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(schema(KINDS))
    return jsonschema.Draft202012Validator(schema(KINDS))


@pytest.mark.parametrize("text", VALID)
def test_both_accept(text: str) -> None:
    assert accepted_by_parser(text)
    assert accepted_by_schema(text)


@pytest.mark.parametrize("text", WRONG_IN_STRUCTURE)
def test_both_reject(text: str) -> None:
    assert not accepted_by_parser(text)
    assert not accepted_by_schema(text)


@pytest.mark.parametrize("text", BEYOND_A_SCHEMA.values(), ids=BEYOND_A_SCHEMA.keys())
def test_only_the_parser_rejects(text: str) -> None:
    assert not accepted_by_parser(text)
    assert accepted_by_schema(text)


def test_only_the_given_kinds_are_in_it() -> None:
    text = str(schema({"wire": KINDS["wire"]}))
    assert "wire" in text
    assert "shared" not in text
    assert "vectors" not in text


def test_a_key_may_mean_something_else_to_each_kind() -> None:
    keys = {
        "a": Key(kind="integer", default=1, help="a number"),
        "b": Key(kind="string", default="x", help="a word"),
    }
    kinds = {name: KindRules(name=name, policies=("replug",), keys={"size": key}) for name, key in keys.items()}
    for kind, value, valid in (("a", 1, True), ("a", "x", False), ("b", "x", True), ("b", 1, False)):
        file = {
            "version": 1,
            "name": "n",
            "vms": {"v": None, "w": None},
            "links": {"l": {"kind": kind, "endpoints": ["v", "w"], "size": value}},
        }
        assert jsonschema.Draft202012Validator(schema(kinds)).is_valid(file) is valid


def test_every_key_is_described() -> None:
    definitions = schema(KINDS)["$defs"]
    undescribed = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, field in definition.get("properties", {}).items()
        if "description" not in field
    ]
    assert undescribed == []


def test_every_key_stands_in_the_reference() -> None:
    text = REFERENCE.read_text()
    models = (FileRaw, VmRaw, ImageRaw, HealthRaw, LinkRaw, RecoveryRaw)
    assert [key for model in models for key in model.model_fields if f"\n| `{key}` |" not in text] == []


def test_every_key_stands_in_the_corpus() -> None:
    corpus = "\n".join(VALID)
    models = (FileRaw, VmRaw, ImageRaw, HealthRaw, LinkRaw, RecoveryRaw)
    untried = [key for model in models for key in model.model_fields if f"{key}:" not in corpus]
    assert sorted(untried) == ["backoff", "qmp_timeout"]  # durations like `heartbeat`
