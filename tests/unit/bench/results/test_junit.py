"""JUnit XML as its readers want it, whatever a guest has said."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import assert_golden
from tests.unit.bench.results.made import (
    made_failure,
    made_link,
    made_result,
    made_sample,
    made_settings,
    made_skip,
    made_timing,
    whole_samples,
)
from vpctl.bench.results.junit import junit_xml

SHAPE: dict[str, tuple[set[str], set[str], list[str]]] = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, set(), ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time"},
        {"timestamp"},
        ["properties", "testcase"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": ({"name", "classname", "time"}, set(), ["skipped", "failure", "system-out"]),
    "skipped": ({"message"}, set(), []),
    "failure": ({"message", "type"}, set(), []),
    "system-out": (set(), set(), []),
}
"""Of each element: attributes it must and may have, and its children in their order. A part of Jenkins's schema."""


def parsed(result: Any) -> Element:
    """Parse a result's XML, and hold it against the shape."""
    root = ElementTree.fromstring(junit_xml(result))
    for element in root.iter():
        required, allowed, children = SHAPE[element.tag]
        assert required <= {*element.attrib} <= required | allowed
        assert [child.tag for child in element] == sorted((child.tag for child in element), key=children.index)
        if element.tag in ("testsuite", "testsuites"):
            for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
                assert int(element.attrib[name]) == len([*element.iter(tag)])
        if element.tag == "testcase":
            assert not (element.find("skipped") is not None and element.find("failure") is not None)
    return root


def cases(root: Element) -> dict[str, str]:
    """Return what became of each case."""
    return {
        case.attrib["name"]: next((child.tag for child in case if child.tag != "system-out"), "passed")
        for case in root.iter("testcase")
    }


def broken() -> Any:
    """Return a result with a link that is well and one that broke."""
    settings = made_settings("ping", "tcp", "udp", "pktgen")
    return made_result(
        [*whole_samples()[:2], *whole_samples()[4:7], made_sample("ping", link="lan1", kind="dgram")],
        links=[made_link(), made_link("lan1", "dgram")],
        settings=settings,
        failures=[
            made_failure("tcp", "iperf3 ended with 1", link="lan1", kind="dgram", source="vm1", target="vm2"),
            made_failure("tcp", "no route", link="lan1", kind="dgram", round=0, hint="vpctl check", variant="x"),
        ],
        skipped=[
            made_skip("udp", "link lan1 is broken", link="lan1", kind="dgram"),
            made_skip("pktgen", "link lan1 is broken", link="lan1", kind="dgram"),
        ],
        timings=[
            made_timing("ping", 12.25),
            made_timing("tcp", 70.5),
            made_timing("ping", 3.125, link="lan1", kind="dgram"),
            made_timing("tcp", 1.0, link="lan1", kind="dgram"),
        ],
    )


def test_the_whole_document() -> None:
    assert_golden("bench/junit.xml", junit_xml(broken()))


def test_a_case_for_each_link_and_workload_with_its_time_and_what_became_of_it() -> None:
    root = parsed(broken())
    well, ill = root.findall("testsuite")
    assert well.attrib["name"] == "lan0 (stream)"
    assert cases(well) == {"ping": "passed", "tcp": "passed", "udp": "passed", "pktgen": "passed"}
    assert cases(ill) == {"ping": "passed", "tcp": "failure", "udp": "skipped", "pktgen": "skipped"}
    assert [case.attrib["time"] for case in well.iter("testcase")] == ["12.250", "70.500", "0.000", "0.000"]
    assert (well.attrib["time"], ill.attrib["time"], root.attrib["time"]) == ("82.750", "4.125", "321.500")


def test_what_was_asked_for_and_has_no_figure_never_passes() -> None:
    root = parsed(made_result(settings=made_settings("tcp")))
    assert cases(root) == {"tcp": "failure"}


def test_the_same_link_of_two_kinds_are_two_suites() -> None:
    root = parsed(made_result([made_sample("tcp"), made_sample("tcp", kind="dgram")]))
    assert [suite.attrib["name"] for suite in root] == ["lan0 (stream)", "lan0 (dgram)"]


def test_workloads_that_something_is_known_of_are_cases_though_nobody_asked() -> None:
    root = parsed(made_result([made_sample("tcp")], settings=made_settings("ping"), skipped=[made_skip("udp")]))
    assert cases(root) == {"ping": "failure", "tcp": "passed", "udp": "skipped"}


@pytest.mark.parametrize(
    ("started", "timestamp"),
    [
        ("2024-05-06T07:08:09+00:00", "2024-05-06T07:08:09"),
        ("2024-05-06T07:08:09.123456Z", "2024-05-06T07:08:09"),
        ("yesterday", None),
    ],
)
def test_the_timestamp_has_no_offset(started: str, timestamp: str | None) -> None:
    (suite,) = parsed(made_result([made_sample()], started=started))
    assert suite.get("timestamp") == timestamp


@given(st.text(st.characters(), max_size=20), st.text(max_size=20))
def test_no_message_breaks_the_document(one: str, other: str) -> None:
    result = made_result(
        [made_sample("ping")],
        settings=made_settings("ping", "tcp", "udp"),
        failures=[made_failure("tcp", one, hint=other)],
        skipped=[made_skip("udp", other)],
    )
    assert cases(parsed(result)) == {"ping": "passed", "tcp": "failure", "udp": "skipped"}
    junit_xml(result).encode()


def test_control_characters_are_written_out_and_markup_is_text() -> None:
    result = made_result(
        settings=made_settings("tcp"), failures=[made_failure("tcp", "a\x1b[31m\x00b\ud800 ]]></x>&\n2")]
    )
    failure = parsed(result).find(".//failure")
    assert failure is not None
    assert failure.attrib["message"] == "a\\x1b[31m\\x00b\\ud800 ]]></x>&\n2"
