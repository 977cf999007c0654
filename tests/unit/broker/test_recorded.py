"""What real QEMUs (7.2.22, 10.0.13, 11.1.3) said to their back-end, said again: 256 MiB of RAM, q35, TCG.

One record is one message and what came with it: the RAM, another file, or an eventfd by a number. The steps, by QMP
and in a Linux guest, are named as they were taken; the same steps have the same effect with every version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ivshmem_host import sealed_memory
from tests.fakes.vhost_user_frontend import MIB
from tests.unit.broker.datapaths import Remembers
from tests.unit.broker.vhost_user.pair import Pair, leaves_no_descriptor, pair
from vpctl.broker.vhost_user.message import HEADER, NEED_REPLY, REPLIES
from vpctl.wait import until

RECORDS = sorted((Path(__file__).parents[2] / "data/vhost_user").glob("*.jsonl"))

EFFECTS = {
    "connect": ["connected"],
    "plug": ["ready"],
    "one pair": ["stopped", "ready"],  # ethtool -L
    "two pairs": ["stopped", "ready"],
    "unbind": ["stopped"],  # the guest's driver
    "bind": ["ready"],
    "link off": ["stopped"],  # set_link
    "link on": ["ready"],
    "pause": ["stopped"],  # stop
    "go on": ["ready"],  # cont
    "reconnect": ["gone", "connected", "ready"],  # it was hung up on
    "reset": ["stopped", "ready"],
    "unplug": ["stopped"],
    "netdev_del": ["gone"],
}
"""Of steps that have one. In the others an ivshmem-plain comes and goes, and interrupts are moved among CPUs."""


def steps(record: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each step and what was said in it."""
    step, said = "", list[dict[str, Any]]()
    for line in record.read_text().splitlines():
        entry = json.loads(line)
        if "step" in entry:
            if step:
                yield step, said
            step, said = entry["step"], []
        else:
            said.append(entry)
    yield step, said


class Files:
    """The descriptors of a record, by their names."""

    def __init__(self, ram: int, stack: ExitStack) -> None:
        self._fds = {"ram": ram}
        self._stack = stack

    def get(self, names: Sequence[str]) -> list[int]:
        for name in {*names} - {*self._fds}:
            made = sealed_memory(name, MIB) if name == "file" else os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._stack.callback(os.close, made)
            self._fds[name] = made
        return [self._fds[name] for name in names]


async def say(both: Pair, entry: dict[str, Any], files: Files) -> None:
    """Say one message again; the reply, if it had one, is there and good."""
    data = bytes.fromhex(entry["data"])
    request, flags, _ = HEADER.unpack_from(data)
    await both.front.send(data, files.get(entry["fds"]))
    if request in REPLIES:
        assert (await both.front.reply())[0] == request
    elif flags & NEED_REPLY:
        assert await both.front.reply() == (request, bytes(8))


@contextmanager
def files_of(both: Pair) -> Iterator[Files]:
    with ExitStack() as stack:
        yield Files(both.front.ram, stack)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_what_a_qemu_has_said_has_its_effect_again(record: Path) -> None:
    queue_pairs = int(record.stem[-1])

    async def go() -> None:
        async with pair(queue_pairs=queue_pairs) as both:
            with files_of(both) as files:
                await both.front.connect()
                for step, said in steps(record):
                    await play(both, said, files)
                    expected = EFFECTS.get(step, [])
                    await told(both, expected)
                    assert [each["what"] for each in both.told.events] == expected, step
                    if expected[-1:] == ["ready"]:
                        assert both.told.events[-1]["queue_pairs"] == (1 if step == "one pair" else queue_pairs)
                        both.back.attach(both.told.events[-1]["session"], Remembers())
                    both.told.events.clear()

    leaves_no_descriptor(go)


async def play(both: Pair, said: list[dict[str, Any]], files: Files) -> None:
    for entry in said:
        if not entry.get("end"):
            await say(both, entry, files)
            continue
        both.front.hang_up()
        await told(both, ["gone"])
        if entry is not said[-1]:
            await both.front.connect()


async def told(both: Pair, whats: list[str]) -> None:
    async def yet() -> bool | None:
        return len(both.told.events) >= len(whats) or None

    await until(yet, timeout=5, what=f"{whats}", every=0.001, last_seen=lambda: f"{both.told.events}")


def test_there_are_records_of_every_version_with_one_queue_pair_and_two() -> None:
    found = [record.stem for record in RECORDS]
    assert found == [f"qemu-{version}-queues-{pairs}" for version in ("10.0", "11.1", "7.2") for pairs in (1, 2)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_qemu_that_dies_between_messages_leaves_nothing(record: Path) -> None:
    """Every third message is the last one once, up to the first end."""
    messages = [entry for _, said in steps(record) for entry in said]
    first = next(number for number, entry in enumerate(messages) if entry.get("end"))

    async def go() -> None:
        async with pair(queue_pairs=int(record.stem[-1])) as both:
            with files_of(both) as files:
                for last in range(0, first, 3):
                    await both.front.connect()
                    for entry in messages[:last]:
                        await say(both, entry, files)
                    if (session := both.back.as_json()["session"]) is not None:
                        both.back.attach(session, Remembers())
                    both.front.hang_up()

                    async def gone() -> bool | None:
                        return any(each["what"] == "gone" for each in both.told.events) or None

                    await until(gone, timeout=5, what="gone", every=0.001)
                    both.told.events.clear()

    leaves_no_descriptor(go)
