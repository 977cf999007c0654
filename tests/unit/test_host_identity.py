"""Which host wrote something down: the same one, the same one after a reboot, or another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vpctl.host_identity import Host, this_host

HERE = Host(name="host", machine_id="m1", boot_id="b1", pid_namespace=1)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (HERE, True),
        (replace(HERE, name="renamed", machine_id="m2"), True),
        (replace(HERE, pid_namespace=2), False),
        (replace(HERE, boot_id="b2", pid_namespace=2), True),
        (replace(HERE, boot_id="b2", machine_id="m2"), False),
        (replace(HERE, boot_id="b2", name="clone"), False),
    ],
)
def test_a_host_is_known_by_its_boot_and_after_another_by_name_and_machine_id(other: Host, *, same: bool) -> None:
    assert HERE.is_same(other) is same
    assert other.is_same(HERE) is same


def test_hosts_without_a_name_and_a_machine_id_are_never_the_same_after_a_reboot() -> None:
    nameless = Host(name="localhost", machine_id="", boot_id="b1", pid_namespace=1)
    assert not nameless.is_same(replace(nameless, boot_id="b2"))


def test_a_record_comes_back_as_it_was_and_any_other_is_an_error() -> None:
    assert Host.from_json(this_host().as_json()) == this_host()
    with pytest.raises(LookupError):
        Host.from_json({"name": "host"})
    with pytest.raises(ValueError, match="not a host"):
        Host.from_json({**HERE.as_json(), "name": 1})
