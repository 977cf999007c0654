"""Whatever the bytes: a topology or a TopologyError, never anything else."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.topology.loading import loaded
from vpctl.errors import TopologyError
from vpctl.topology.model import Topology

SEED = """version: 1
name: pair
defaults: {image: micro, memory: 256M, cpus: 1, health: {heartbeat: 10s, retries: 3}}
vms:
  vm1: {qemu_args: [-s], kernel_args: quiet, machine: q35}
  vm2: {image: {kernel: k, initrd: i}, memory: 1.5G}
links:
  lan0:
    kind: shared
    endpoints: [vm1, vm2]
    subnet: 10.77.0.0/30
    queues: 1
    mtu: ${MTU:-1500}
    recovery: {mode: auto, policy: relink, on_stuck: fail}
    size: 4M
  lan1: {kind: wire, endpoints: [vm2, vm1]}
"""
SYNTAX = [
    "&a ",
    "*a",
    "!!x ",
    "<<: ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "? ",
    "| ",
    "> ",
    "'",
    '"',
    "#",
    "\\",
    "%YAML 9",
]
REFERENCES = ["${", "${A}", "$$", "${:-}"]
SPACE = ["\t", "\n", "\n---\n", "  ", "\n  ", "\u2028", "\x00", "\ud800", "\U0001f600"]
VALUES = [
    "~",
    "null",
    "0x",
    "-1",
    "1e999",
    "9" * 50,
    ".nan",
    "on",
    "10.0.2.0/24",
    "0.0.0.0/0",
    "vm1",
    "1G",
    "1s",
    "wire",
]
TOKENS = st.sampled_from([*SYNTAX, *REFERENCES, *SPACE, *VALUES])
OUTER_KEYS = ["version", "name", "defaults", "vms", "links", "vm1", "vm2", "lan0", "[key]", "<own image>", "0"]
INNER_KEYS = [
    "kind",
    "endpoints",
    "subnet",
    "size",
    "image",
    "kernel",
    "health",
    "recovery",
    "policy",
    "memory",
    "mtu",
]
KEYS = st.sampled_from([*OUTER_KEYS, *INNER_KEYS])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | KEYS | TOKENS
TREES = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=5),
    max_leaves=25,
)


def judged(text: str | bytes) -> None:
    """Load; a refusal must be well formed."""
    try:
        assert isinstance(loaded(text, A="x: [", HOME="/h"), Topology)
    except TopologyError as error:
        assert error.problems
        places = [(problem.line, problem.column) for problem in error.problems]
        assert places == sorted(places)
        assert all(line >= 1 and column >= 1 for line, column in places)
        for problem in error.problems:
            assert problem.message.isprintable(), problem.message
            assert problem.hint is None or problem.hint.isprintable()


def flow(tree: object) -> str:
    """Spell a tree in flow notation, scalars as they are: much of it will not parse, which is the point."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {flow(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(flow(item) for item in tree) + "]"
    return str(tree)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    judged(data)


@settings(deadline=None)
@given(st.text(max_size=300))
@example('a: "\\UFFFFFFFF"')
@example("%YAML 99999999999.1\n---\na: 1")
@example("? ? ? a")
def test_any_text(text: str) -> None:
    judged(text)


@settings(deadline=None)
@given(TREES)
def test_any_tree(tree: object) -> None:
    judged(flow(tree))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SEED)), st.integers(0, 12), TOKENS | st.text(max_size=3)), max_size=4))
def test_any_damage_to_a_good_file(damage: list[tuple[int, int, str]]) -> None:
    text = SEED
    for place, length, token in damage:
        text = text[:place] + token + text[place + length :]
    judged(text)


@settings(deadline=None)
@given(st.permutations(SEED.splitlines(keepends=True)), st.integers(0, 17))
def test_any_shuffle_of_a_good_file(lines: list[str], count: int) -> None:
    judged("".join(lines[:count]))


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nname: x\nvms: {" + ", ".join(f"v{n}: {{memory: 1Q, bad: 1}}" for n in range(20_000)) + "}",
        "version: 1\nname: x\nvms: {"
        + ", ".join(f"v{n}: " for n in range(20_000))
        + "}\nlinks:\n"
        + "".join(f"  l{n}: {{kind: wire, endpoints: [w{n}, v{n}]}}\n" for n in range(9_000)),
        "version: 1\nname: x\nvms: {"
        + ", ".join(f"v{n}: " for n in range(2_000))
        + "}\nlinks:\n"
        + "".join(
            f"  l{n}: {{kind: wire, endpoints: [v{n % 2000}, v0], subnet: 10.{n >> 8}.{n & 255}.0/24}}\n"
            for n in range(9_000)
        ),
    ],
)
def test_many_of_everything_ends(text: str) -> None:
    judged(text)


def test_every_byte_order_and_binary() -> None:
    for encoding in ("utf-16", "utf-32", "utf-16-le", "latin-1"):
        judged((SEED + "# ä").encode(encoding))
    judged(bytes(range(256)) * 100)
