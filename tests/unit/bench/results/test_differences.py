"""What is told of two results that come from different worlds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.bench.results.made import made_guest, made_host, made_link, made_result, made_settings
from vpctl.bench.results.differences import host_differences


def of_guests(**more: Any) -> Any:
    return made_host(vms=[made_guest("vm1", **more), made_guest("vm2", **more)])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            {},
            {"host": made_host(cpu="Other CPU")},
            "the host's CPU differs: Example CPU 3000 in OLD, Other CPU in NEW",
        ),
        ({}, {"host": made_host(cores=8)}, "the host's number of cores differs: 4 in OLD, 8 in NEW"),
        (
            {},
            {"host": made_host(kernel="6.9.1")},
            "the host's kernel differs: 6.8.0-31-generic in OLD, 6.9.1 in NEW",
        ),
        (
            {},
            {"host": made_host(governor="powersave")},
            "the host's frequency governor differs: none in OLD, powersave in NEW",
        ),
        ({}, {"host": of_guests(qemu_version="11.1.0")}, "QEMU differs (vm1, vm2): 7.2.22 in OLD, 11.1.0 in NEW"),
        ({}, {"host": of_guests(accelerator="kvm")}, "the accelerator differs (vm1, vm2): tcg in OLD, kvm in NEW"),
        ({}, {"host": of_guests(cpu_model="host")}, "the CPU model differs (vm1, vm2): max in OLD, host in NEW"),
        ({}, {"host": of_guests(machine="pc")}, "the machine differs (vm1, vm2): q35 in OLD, pc in NEW"),
        ({}, {"host": of_guests(cpus=2)}, "the number of CPUs differs (vm1, vm2): 1 in OLD, 2 in NEW"),
        (
            {},
            {"host": made_host(vms=[made_guest("vm1"), made_guest("vm2", memory=1 << 30)])},
            "the memory differs (vm2): 256M in OLD, 1024M in NEW",
        ),
        (
            {},
            {"host": of_guests(kernel="6.12.1")},
            "the guest's kernel differs (vm1, vm2): 6.1.0-37-amd64 in OLD, 6.12.1 in NEW",
        ),
        ({}, {"host": made_host(vms=[made_guest("vm2")])}, "only OLD ran the VM vm1"),
        ({"host": made_host(vms=[])}, {}, "only NEW ran the VMs vm1, vm2"),
        ({}, {"links": [made_link(mtu=9000)]}, "the MTU differs (lan0): 1500 in OLD, 9000 in NEW"),
        ({}, {"links": [made_link(queues=2)]}, "the number of queues differs (lan0): 1 in OLD, 2 in NEW"),
        ({}, {"links": [made_link(kind="dgram")]}, "the kind differs (lan0): stream in OLD, dgram in NEW"),
        (
            {},
            {"links": [made_link(endpoints=("vm2", "vm1"))]},
            "the order of endpoints differs (lan0): vm1, vm2 in OLD, vm2, vm1 in NEW",
        ),
        (
            {},
            {"settings": made_settings(duration=2)},
            "the duration of a measurement differs: 10 s in OLD, 2 s in NEW",
        ),
        ({}, {"settings": made_settings(quick=True)}, "`--quick` differs: no in OLD, yes in NEW"),
        (
            {},
            {"settings": made_settings(crash="vm1")},
            "the VM that `outage` kills differs: none in OLD, vm1 in NEW",
        ),
        (
            {"host": made_host(load_before=(3.5, 1.0, 1.0))},
            {},
            "the host was busy before OLD began: load 3.50 on 4 cores",
        ),
    ],
)
def test_a_difference_is_one_sentence(old: Any, new: Any, sentence: str) -> None:
    settings = {"settings": made_settings()}
    assert host_differences(made_result(**{**settings, **old}), made_result(**{**settings, **new})) == [sentence]


def test_results_of_the_same_world_differ_in_nothing_that_counts() -> None:
    old = made_result(settings=made_settings("tcp"))
    new = made_result(
        settings=made_settings("tcp", "ping", repeats=9),
        vpctl_version="0.2.0",
        started="2025-01-01T00:00:00+00:00",
        seconds=1.0,
        host=made_host(load_before=(2.0, 0.0, 0.0), load_after=(9.0, 9.0, 9.0)),
    )
    assert host_differences(old, new) == []


def test_guests_that_differ_in_different_ways_have_a_sentence_each() -> None:
    new = made_result(host=made_host(vms=[made_guest("vm1", cpus=2), made_guest("vm2", cpus=4)]))
    assert host_differences(made_result(), new) == [
        "the number of CPUs differs (vm1): 1 in OLD, 2 in NEW",
        "the number of CPUs differs (vm2): 1 in OLD, 4 in NEW",
    ]
