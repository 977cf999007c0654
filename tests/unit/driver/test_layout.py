"""The shared-memory layout is written down three times: document, C header, Python. All three say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.unit.driver.conftest import DRIVER, compile_c
from vpctl.broker import control_page

DOCUMENT = DRIVER.parents[1] / "docs/shared-memory-layout.md"
C_TYPES = {"__u8": "u8", "__le16": "u16", "__le32": "u32", "__le64": "u64"}
SIZES = {
    "u8": 1, "u16": 2, "u32": 4, "u64": 8,
    "vshm_lines": 128, "vshm_peer_region": 24, "vshm_peer_ring": 32, "vshm_answer": 64,
}  # fmt: skip
LAYOUTS = [value for value in vars(control_page).values() if isinstance(value, control_page.Layout)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field as one of the three describes it."""

    name: str
    offset: int
    type: str
    writer: str


def documented() -> dict[str, tuple[int, list[Field]]]:
    """Read the document: structure → its size and fields."""
    found = {}
    for section in DOCUMENT.read_text().split("### ")[1:]:
        heading = re.match(r"`(\w+)`: .*?(\d+) bytes", section)
        assert heading, section[:80]
        rows = re.findall(r"^\| (\d+) \| (\S+) \| (\w+) \| ([\w ]+) \|", section.split("## ")[0], re.MULTILINE)
        fields = [Field(name=name, offset=int(at), type=type_, writer=writer) for at, type_, name, writer in rows]
        found[heading[1]] = (int(heading[2]), fields)
    return found


def in_c() -> dict[str, tuple[int, list[Field]]]:
    """Read the header: the structures' fields with their writers, and the offsets that are asserted."""
    text = (DRIVER / "layout.h").read_text()
    offsets = {(name, field): int(at) for name, field, at in re.findall(r"VSHM_AT\((\w+), (\w+), (\d+)\)", text)}
    sizes = dict(re.findall(r"VSHM_SIZE\((\w+), (\d+)\)", text))
    found = {}
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", text, re.MULTILINE | re.DOTALL):
        members = re.findall(
            r"^\t(?:struct )?(\w+) (\w+)(\[\d+\])?;\s*/\* (host|side s|producer|driver)\b", body, re.MULTILINE
        )
        assert len(members) == body.count(";\t"), name
        fields = [
            Field(name=field, offset=offsets[name, field], type=C_TYPES.get(type_, type_) + count, writer=writer)
            for type_, field, count, writer in members
        ]
        found[name] = (int(sizes[name]), fields)
    return found


def test_the_document_and_the_header_agree_on_every_field() -> None:
    assert in_c() == documented()


def test_what_the_header_asserts_holds() -> None:
    assert compile_c("-fsyntax-only", "ring.c") == ""


@pytest.mark.parametrize("name", list(documented()))
def test_the_document_leaves_no_gap(name: str) -> None:
    size, fields = documented()[name]
    at = 0
    for field in fields:
        assert field.offset == at, field
        base, _, count = field.type.partition("[")
        at += SIZES[base] * (int(count.rstrip("]")) if count else 1)
    assert at == size


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_python_agrees_on_what_the_host_writes(layout: control_page.Layout) -> None:
    size, fields = documented()[layout.name]
    assert layout.size == size
    assert layout.fields == {field.name: field.type for field in fields}
    assert layout.offsets == {field.name: field.offset for field in fields}


def test_python_and_the_header_agree_on_the_constants() -> None:
    text = (DRIVER / "layout.h").read_text()
    defined = {
        name: int(value, 0) for name, value in re.findall(r"#define (VSHM_\w+)\s+(\w+?)u?$", text, re.MULTILINE)
    }
    assert {
        "VSHM_CONTROL_MAGIC": control_page.CONTROL_MAGIC,
        "VSHM_CONTROL_VERSION": control_page.CONTROL_VERSION,
        "VSHM_CONTROL_SIZE": control_page.PAGE_SIZE,
        "VSHM_SLOT_SIZE": control_page.SLOT_SIZE,
        "VSHM_SLOTS": control_page.SLOTS,
        "VSHM_REGION_MAGIC": control_page.REGION_MAGIC,
        "VSHM_REGION_VERSION": control_page.REGION_VERSION,
        "VSHM_REGION_MIN": control_page.SMALLEST_REGION,
        "VSHM_DATA_MIN": control_page.HEADERS_SIZE,
        "VSHM_QUEUE_PAIRS_MAX": control_page.MAX_QUEUE_PAIRS,
        "VSHM_PEER_REGIONS_MAX": control_page.MAX_REGIONS,
        "VSHM_PEER_RINGS_MAX": control_page.MAX_RINGS,
        "VSHM_RING_MIN": control_page.SMALLEST_RING,
        "VSHM_RING_MAX": control_page.LARGEST_RING,
    }.items() <= defined.items()
    for prefix, enum in (("SLOT", control_page.SlotState), ("ANSWER", control_page.AnswerState)):
        states = dict(re.findall(rf"VSHM_{prefix}_(\w+) = (\d)", text))
        assert {name: str(int(state)) for name, state in enum.__members__.items()} == states


def test_the_document_names_the_headers_constants() -> None:
    document = DOCUMENT.read_text()
    text = (DRIVER / "layout.h").read_text()
    for name in ("CONTROL_MAGIC", "REGION_MAGIC", "CONTROL_SIZE", "DATA_MIN", "RING_MIN", "RING_MAX", "PACKET_MAX"):
        value = re.search(rf"#define VSHM_{name}\s+(\w+?)u?\n", text)
        assert value is not None
        assert value[1] in document, name
