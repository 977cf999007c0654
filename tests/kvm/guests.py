"""Guests under KVM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.vm.commandline import Vpctl, user

TOPOLOGY = """\
version: 1
name: smoke
defaults: {{accelerator: kvm{more}}}
vms: {{vm1: {{}}, vm2: {{}}}}
links:
  lan0: {{kind: {kind}, endpoints: [vm1, vm2]{link}}}
"""


@contextmanager
def kvm_pair(kind: str, *, more: str = "", link: str = "") -> Iterator[Vpctl]:
    """Boot vm1 and vm2 under KVM with a link of a kind, `lan0` of topology `smoke`."""
    with user() as vpctl:
        # The file says what accelerates them, as a user's would.
        file = vpctl.file(TOPOLOGY.format(kind=kind, more=more, link=link))
        done = vpctl.run("up", str(file), status=None, environ={"VPCTL_ACCELERATOR": ""})
        if done.status:
            print(*(f"--- {title}\n{text}" for title, text in vpctl.report()), sep="\n")
        assert done.status == 0, done
        yield vpctl
