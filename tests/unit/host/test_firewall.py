"""The host's firewall, and what the doctor says of bridges."""

from __future__ import annotations

import pytest

from tests.unit.host.networks import of, unfit
from vpctl.host import firewall
from vpctl.host.firewall import examine


async def test_the_doctor_says_nothing_of_it_where_nobody_needs_it_and_has_a_remedy_where_it_lacks() -> None:
    assert await examine([[]]) == []
    (finding,) = await examine([[of("pair")]])
    (unasked,) = await examine([])
    assert finding.remedy or finding.ok == "ok"
    assert (finding.ok == "failed") == (unfit() is not None)
    assert unasked.ok != "failed"


@pytest.mark.parametrize(
    ("chain", "verdict"),
    [
        ("-P FORWARD ACCEPT", "ACCEPT"),
        ("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD", "DROP"),
        ("-P FORWARD DROP\n-A FORWARD -i vp+ -o vp+ -j ACCEPT\n-A FORWARD -j DOCKER-USER", "ACCEPT"),
        ("iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied", None),
    ],
)
def test_a_firewall_is_judged_by_its_policy_and_by_the_rule_that_we_name(chain: str, verdict: str | None) -> None:
    assert firewall.forwarding(chain) == verdict
