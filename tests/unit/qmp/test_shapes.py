"""Replies and events of a QEMU, which a guest may have taken over: in their shape, or an error, or left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.qmp_server import Event, FakeQemu, Reply, serving
from vpctl.errors import QmpError
from vpctl.qmp.session import connect
from vpctl.qmp.shapes import NAME_CHARACTERS, REPLIES, TEXTS, event, reply
from vpctl.recovery.faults import Signs
from vpctl.rundir import Directories

KEYS = st.sampled_from(["status", "name", "event", "data", *TEXTS, "other"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@given(st.sampled_from(sorted(REPLIES)), JSON)
def test_any_reply_is_in_shape_or_an_error_of_ours(command: str, returned: object) -> None:
    try:
        value = reply("vm1", command, returned)
    except QmpError as error:
        assert error.message.startswith(f"vm1: QEMU's reply to `{command}` has no sense")
        return
    if command == "query-status":
        assert list(value) == ["status"]
        assert isinstance(value["status"], str)
    elif command == "qom-list":
        assert all(isinstance(entry["name"], str) for entry in value)
    else:
        assert isinstance(value, str)


@pytest.mark.parametrize("command", sorted(REPLIES))
@pytest.mark.parametrize(
    "returned", [nested(5000), {"status": nested(5000)}, "x" * (2 << 20), [{"name": 1}] * 20_000]
)
def test_what_is_too_much_or_too_deep_is_an_error_of_ours(command: str, returned: object) -> None:
    with pytest.raises(QmpError):
        reply("vm1", command, returned)


def test_the_reply_to_what_is_only_carried_out_is_as_it_came() -> None:
    assert reply("vm1", "device_add", {"any": 1}) == {"any": 1}


@given(st.dictionaries(KEYS, JSON))
def test_any_event_can_be_taken_in_or_counts_for_nothing(said: dict[str, Any]) -> None:
    told = event(said)
    if told is None:
        assert not isinstance(said.get("event"), str)
        return
    assert all(isinstance(told["data"].get(key, ""), str) for key in TEXTS)
    assert isinstance(hash((told["event"], told["data"].get("device"))), int)


@given(st.sampled_from(["SHUTDOWN", "GUEST_PANICKED", "RESET"]), JSON)
def test_signs_are_taken_from_any_event(name: str, data: object) -> None:
    told = event({"event": name, "data": data})
    assert told is not None
    signs = Signs().after(told)
    assert signs.panicked is (name == "GUEST_PANICKED")
    assert signs.shutdown_reason is None or isinstance(signs.shutdown_reason, str)


def test_a_name_beyond_all_bounds_is_none() -> None:
    assert event({"event": "X" * (NAME_CHARACTERS + 1)}) is None


async def test_a_session_with_a_qemu_checks_both_and_goes_on(directories: Directories) -> None:
    directories.run.mkdir(parents=True)
    path = directories.run / "vm1.qmp"
    fake = FakeQemu()
    fake.script("query-status", [Event("DEVICE_DELETED", {"device": 7}), Reply({"running": True})])
    async with serving(path, fake), connect(path, vm="vm1", timeout=5, of_qemu=True) as session:
        with session.expect("DEVICE_DELETED") as deleted:
            with pytest.raises(QmpError, match="`query-status` has no sense"):
                await session.execute("query-status")
            assert (await deleted.wait(5))["data"] == {}
        assert await session.execute("query-status") == {"status": "running"}
