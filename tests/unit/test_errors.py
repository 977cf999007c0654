"""Exit codes and `code` words are what users' scripts rely on."""

from __future__ import annotations

import pytest

from vpctl import errors
from vpctl.errors import HostError, Problem, TopologyError, VpctlError, errors_by_code

CONTRACT = {
    "UsageError": ("usage", 2),
    "TopologyError": ("topology", 2),
    "HostError": ("host", 3),
    "ReadyTimeoutError": ("timeout", 4),
    "QmpError": ("qmp", 5),
    "QmpTimeoutError": ("qmp", 5),
    "QmpLostError": ("qmp", 5),
    "HotplugError": ("qmp", 5),
    "VerificationError": ("verification", 1),
    "RecoveryError": ("recovery", 6),
    "RegressionError": ("regression", 7),
    "NotFoundError": ("not-found", 8),
    "InterruptedByUserError": ("interrupted", 130),
    "InternalError": ("internal", 70),
}


def all_errors() -> dict[str, type[VpctlError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, VpctlError) and value is not VpctlError
    }


def test_every_error_has_the_code_and_exit_code_of_the_contract() -> None:
    assert {name: (cls.code, cls.exit_code) for name, cls in all_errors().items()} == CONTRACT


def test_anything_unexpected_is_internal() -> None:
    assert (VpctlError.code, VpctlError.exit_code) == ("internal", 70)


def test_a_client_can_raise_what_the_supervisor_said() -> None:
    table = errors_by_code()
    assert {code for code, _ in CONTRACT.values()} == set(table)
    for code, cls in table.items():
        assert cls.code == code
        assert cls.exit_code == CONTRACT[cls.__name__][1]


@pytest.mark.parametrize(
    ("error", "json"),
    [
        (HostError("no QEMU"), {"code": "host", "message": "no QEMU", "hint": None}),
        (
            HostError("no QEMU", hint="apt install it", where="a.yaml:1:2"),
            {"code": "host", "message": "no QEMU", "hint": "apt install it", "where": "a.yaml:1:2"},
        ),
    ],
)
def test_json_has_code_message_and_hint_always_and_where_if_known(error: VpctlError, json: dict[str, object]) -> None:
    assert error.as_json() == json
    assert str(error) == error.message


def test_a_topology_error_tells_every_problem_and_begins_with_the_first() -> None:
    first = Problem(message="no VM `vm3`", file="p.yaml", line=4, column=7, hint="VMs are `vm1`, `vm2`")
    second = Problem(message="unknown key `colour`", file="p.yaml", line=9, column=3)
    error = TopologyError([first, second])
    assert error.message == "no VM `vm3` (and 1 more)"
    assert (error.where, error.hint) == ("p.yaml:4:7", first.hint)
    assert error.as_json()["problems"] == [
        {"where": "p.yaml:4:7", "message": "no VM `vm3`", "hint": "VMs are `vm1`, `vm2`"},
        {"where": "p.yaml:9:3", "message": "unknown key `colour`", "hint": None},
    ]
    assert TopologyError([first]).message == "no VM `vm3`"
