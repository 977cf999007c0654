"""Guests that cannot be reached."""

from __future__ import annotations

import pytest

from tests.unit.cli.running import context, made_running
from vpctl.cli import guest
from vpctl.guest.ssh import GuestSshError
from vpctl.rundir import Directories, write_json


@pytest.mark.parametrize(
    ("state", "paused", "message", "hint"),
    [
        ("ready", True, "VM `vm1` is paused", "vpctl qmp vm1 cont"),
        ("crashed", False, "VM `vm1` is crashed", "vpctl recover vm1"),
        ("ready", False, None, None),
    ],
)
def test_a_vm_that_cannot_answer_is_not_waited_for(
    directories: Directories, state: str, paused: bool, message: str | None, hint: str | None
) -> None:
    made_running(directories, "pair", "vm1")
    ssh = {"port": 1, "user": "root", "identity": "/none", "host_key": None}
    entry = {"name": "vm1", "state": state, "paused": paused, "ssh": ssh}
    write_json(directories.topology("pair").status, {"vms": [entry]})
    if message is None:
        assert guest.address(context(directories), "vm1").port == 1
        return
    with pytest.raises(GuestSshError) as caught:
        guest.address(context(directories), "vm1")
    assert (caught.value.message, caught.value.hint) == (message, hint)
