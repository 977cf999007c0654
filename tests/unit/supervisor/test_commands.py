"""Commands that are refused before anything is done."""

from __future__ import annotations

from typing import Any, cast

import pytest

from vpctl.errors import NotFoundError, UsageError
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.commands import Commands
from vpctl.supervisor.inject import FaultInjector
from vpctl.supervisor.jobs import Jobs
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState


@pytest.mark.parametrize(
    ("name", "arguments", "message", "hint"),
    [
        ("reboot", {}, "unknown command `reboot`", "commands are check, crash, leave-job, query-recovery-plan"),
        ("execute", {}, "unknown command `execute`", None),
        ("crash", {"vm": "vm1"}, "`crash`: missing a required argument: 'how'", None),
        ("up", {"now": True}, "`up`: got an unexpected keyword argument 'now'", None),
        ("crash", {"vm": "vm1", "how": "burn"}, "no way to crash a VM by `burn`", "ways are kill, panic, hang, stop"),
        ("recover", {"vm": "vm9"}, "no VM named `vm9`", "VMs are `vm1`, `vm2`, `vm3`"),
        ("check", {"links": ["lan9"]}, "no link named `lan9`", "links are `lan0`, `lan1`"),
    ],
)
async def test_what_cannot_be_executed_is_refused_with_what_can(
    state: TopologyState, name: str, arguments: dict[str, Any], message: str, hint: str | None
) -> None:
    parts = (cast(Jobs, None), cast(Recoveries, None), cast(BringUp, None), cast(FaultInjector, None))
    commands = Commands(state, *parts)
    with pytest.raises((UsageError, NotFoundError), match=message) as caught:
        await commands.execute(name, arguments)
    assert hint is None or (caught.value.hint or "").startswith(hint)
