"""What messages show: characters that are not seen, numbers as they were spelled, hints that say something else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.topology.loading import loaded
from tests.unit.topology.telling import PAIR, problems
from vpctl.topology import values
from vpctl.topology.problems import quoted


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("name: c07", "name:\u00a0c07", 2, "no-break space (U+00A0)"),
        ("name: c07", "name: c\u200b07", 2, "zero width space (U+200B)"),
        ("\n  vm1: {}", "\n\u00a0\u00a0vm1: {}", 4, "no-break space (U+00A0)"),
        ("kind: wire", "kind: wi\u2028re", 7, "line separator (U+2028)"),
    ],
)
def test_a_character_that_is_not_seen_is_named_at_its_place(old: str, new: str, line: int, named: str) -> None:
    found = problems(PAIR.replace(old, new))
    assert any(at == line and named in f"{message} {hint}" for at, message, hint in found), found


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_in_a_comment_is_comment_and_shifts_no_line(character: str) -> None:
    commented = PAIR.replace("# the pair", f"# the pair{character}seed: 1")
    assert loaded(commented).name == "c07"
    assert [line for line, _, _ in problems(commented.replace("kind: wire", "kind: wiire"))] == [7]


def test_quotes_keep_what_is_not_seen() -> None:
    text = PAIR.replace("vm1: {}", 'vm1: {kernel_args: "a=\u00a0\u2028b"}')
    assert loaded(text).vms[0].kernel_args == "a=\u00a0\u2028b"


@pytest.mark.parametrize("number", ["1e3", "010", "0x10", "1.50"])
def test_a_number_is_shown_as_it_is_spelled(number: str) -> None:
    ((_, message, _),) = problems(PAIR.replace("vm1: {}", f"vm1: {{accelerator: {number}}}"))
    assert quoted(number) in message


def test_a_number_of_any_spelling_counts_as_one() -> None:
    assert loaded(PAIR.replace("vm1: {}", "vm1: {cpus: 0x02}")).vms[0].cpus == 2


@given(
    st.one_of(
        st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,12})? ?[kmgKMG](i?[bB])?", fullmatch=True),
        st.text(max_size=40),
        st.floats(),
    ),
    st.sampled_from([values.size, values.memory, values.duration, values.name, values.vm_name, values.version]),
)
def test_a_hint_proposes_what_is_accepted_and_not_what_was_given(value: object, takes: object) -> None:
    assert callable(takes)
    try:
        takes(value)
    except values.WrongValueError as error:
        proposed = re.search("did you mean `([^`]*)`", error.hint or "")
        if proposed is not None:
            assert proposed[1] != value
            if takes is not values.memory:  # which proposes the unit; the rest may be wrong as well
                takes(proposed[1])


@pytest.mark.parametrize("name", ["localhost", "ip6-localhost", "vm-"])
def test_a_vm_has_a_name_that_a_host_may_have(name: str) -> None:
    found = problems(PAIR.replace("vm1", name))
    assert [line for line, _, _ in found][:1] == [4]


@pytest.mark.parametrize(("size", "fits"), [(1792, True), (1793, False)])
def test_kernel_args_are_what_a_kernel_takes(size: int, fits: bool) -> None:
    text = PAIR.replace("vm1: {}", f"vm1: {{kernel_args: {'x' * size}}}")
    if fits:
        loaded(text)
    else:
        ((line, message, _),) = problems(text)
        assert (line, "1793 bytes" in message) == (4, True)


def test_a_link_whose_subnet_is_wrong_is_told_that_alone() -> None:
    text = PAIR.replace("vm2]}", "vm2], subnet: 10.77.0.0/16}") + (
        "  lan1: {kind: wire, endpoints: [vm1, vm2], subnet: nonsense}\n"
    )
    assert [message for _, message, _ in problems(text)] == [
        "link `lan1`: `subnet`: `nonsense` is not an IPv4 network"
    ]
