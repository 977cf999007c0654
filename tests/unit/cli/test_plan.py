"""A plan as people read it: commands that can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_run, made_topology
from vpctl.cli import plan
from vpctl.rundir import RunDir

RUN = made_run(made_topology(("lan0", "vm1", "vm2")))

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))


def test_a_plan_shows_every_command_line_and_every_hotplug_step() -> None:
    data = plan.plan_data(RUN, RUNDIR)
    assert [vm["name"] for vm in data["vms"]] == ["vm1", "vm2"]
    steps = [(step["vm"], step["execute"]) for step in data["links"][0]["steps"]]
    assert [name for vm, name in steps if vm == "vm1"] == ["netdev_add", "set_link", "device_add"]
    assert [name for vm, name in steps if vm == "vm2"] == ["netdev_add", "device_add"]
    text = plan.plan_text(data)
    assert text.count("qemu-system-x86_64 \\\n  -name") == 2
    assert "# link lan0: stream, 10.77.0.0/30, mtu 1500: vm1 10.77.0.1/30 " in text
    assert 'vm1  {"execute": "netdev_add", ' in text


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1), min_size=1))
def test_a_command_line_that_is_shown_can_be_pasted(argv: list[str]) -> None:
    assert shlex.split(plan.shell_lines(argv).replace("\\\n", "")) == argv or any("\\\n" in word for word in argv)
