"""A soak against guests that say what they like: a round that fails is in the report, whatever it failed by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.fakes.guest import Process, guest_running
from tests.made import made_run
from vpctl.client.soak.plan import Census, Injection, PlannedFault
from vpctl.client.soak.run import Soak
from vpctl.errors import NotFoundError
from vpctl.guest.ssh import Address
from vpctl.rundir import Directories, RunDir, write_json

WELL = '{"received":50,"corrupt":0}\n'


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


class Unhurt(Soak):
    """A soak whose faults hit nothing, of a topology that is always well; its traffic is looked for as ever."""

    async def _inject(self, planned: PlannedFault, *, first: bool) -> None:
        self.struck = True

    async def _until_well(self, faults: Any = ()) -> dict[str, Any]:
        return {}

    async def _census(self, status: Mapping[str, Any]) -> Census:
        return Census(processes=1, sockets=1, files={}, memory={})


def soak_of(rundir: RunDir, address: Address) -> Unhurt:
    ssh = {
        **{"port": address.port, "user": address.user},
        **{"identity": str(address.identity), "host_key": address.host_key},
    }
    vms = [{"name": name, "ssh": ssh, "agent": "/vpctl-agent"} for name in ("vm1", "vm2")]
    links = [{"name": "lan0", "plugged": {"vm1": [3]}}]
    write_json(rundir.status, {"vms": vms, "links": links})
    return Unhurt(made_run(), rundir, lambda text: None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "the agent said ''"),
        ("[]\n", r"the agent said '\[\]'"),
        ("[" * 60_000, "the agent said"),
        ('{"received":"many","corrupt":0}\n', "the agent said"),
        ('{"received":' + "9" * 5000 + "}\n", "the agent said"),
        ('{"received":50,"corrupt":2}\n', "2 damaged datagrams"),
    ],
)
async def test_a_round_that_ends_by_a_guests_words_is_in_the_report(rundir: RunDir, said: str, message: str) -> None:
    async def answer(process: Process) -> None:
        if "stream-recv" in (process.command or ""):
            process.stdout.write(said if hasattr(soak, "struck") else WELL)
        process.exit(0)

    async with guest_running(rundir, answer) as address:
        soak = soak_of(rundir, address)
        tally = await soak.run(seed=1, first=4, rounds=3)
    (unrecovered,) = tally.unrecovered
    assert unrecovered.startswith("round 4: ")
    assert re.search(message, unrecovered)
    assert [entry.round for entry in tally.rounds] == [4]
    assert not tally.ok


async def test_a_device_that_is_not_there_is_an_error_of_ours(rundir: RunDir) -> None:
    soak = soak_of(rundir, Address(vm="vm1", port=1, user="root", identity=rundir.identity, host_key=None))
    for vm, link, message in (("vm2", "lan0", "no device of `lan0`"), ("vm1", "lan1", "no record of `lan1`")):
        with pytest.raises(NotFoundError, match=message):
            await soak._remove_device(PlannedFault(injection=Injection.DEVICE, vm=vm, link=link))
    rundir.status.unlink()
    with pytest.raises(NotFoundError, match="no record of `lan0`"):
        await soak._remove_device(PlannedFault(injection=Injection.DEVICE, vm="vm1", link="lan0"))
