"""What the guests may have is the least of what host, overcommit rule and cgroups leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import pytest

from vpctl.errors import HostError
from vpctl.qemu.memory import OVERHEAD, Available, available_memory, check_memory, memory_need
from vpctl.topology.model import Topology, VmSpec

MIB = 1 << 20
MEMINFO = """MemTotal:        8388608 kB
MemFree:          262144 kB
MemAvailable:    2097152 kB
SwapFree:        1048576 kB
CommitLimit:     1048576 kB
Committed_AS:     524288 kB
HugePages_Total:       0
"""


class Places(TypedDict):
    """Where a host's figures are read."""

    proc: Path
    cgroups: Path


def host(
    root: Path, *, cgroup: str = "0::/\n", overcommit: int = 0, limits: Mapping[str, str] | None = None
) -> Places:
    """Write a /proc and a /sys/fs/cgroup; `limits` are files of the latter."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": cgroup,
        "proc/sys/vm/overcommit_memory": f"{overcommit}\n",
        **{f"cgroup/{name}": text for name, text in (limits or {}).items()},
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return {"proc": root / "proc", "cgroups": root / "cgroup"}


def topology(*memories: int) -> Topology:
    vms = tuple(VmSpec(name=f"vm{number}", memory=memory) for number, memory in enumerate(memories))
    return Topology(name="t", vms=vms, links=())


def test_a_host_without_limits_has_what_is_available_and_its_swap(tmp_path: Path) -> None:
    found = available_memory(**host(tmp_path))
    assert found == Available(memory=2048 * MIB, with_swap=3072 * MIB, limited_by="the host's MemAvailable")


def test_strict_overcommit_limits(tmp_path: Path) -> None:
    found = available_memory(**host(tmp_path, overcommit=2))
    assert (found.with_swap, found.limited_by) == (512 * MIB, "vm.overcommit_memory=2")


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"a/memory.max": str(600 * MIB), "a/memory.current": str(100 * MIB)}, 500),
        ({"a/b/memory.max": str(300 * MIB), "a/b/memory.current": str(400 * MIB)}, 0),
        (
            {
                "a/memory.max": str(600 * MIB),
                "a/memory.current": str(500 * MIB),
                "a/memory.stat": f"anon 1\ninactive_file {200 * MIB}\n",
            },
            300,
        ),
        ({"memory.max": str(64 * MIB), "memory.current": "0"}, 64),
    ],
    ids=["parent", "over-its-limit", "page-cache-is-reclaimed", "root-of-a-container"],
)
def test_each_cgroup_up_to_the_root_limits(tmp_path: Path, files: dict[str, str], left: int) -> None:
    places = host(tmp_path, cgroup="0::/a/b\n", limits=files)
    (places["cgroups"] / "a/b").mkdir(parents=True, exist_ok=True)
    found = available_memory(**places)
    assert found.with_swap == left * MIB
    assert found.limited_by.startswith("the memory cgroup /")


def test_a_cgroup_without_a_limit_does_not_limit(tmp_path: Path) -> None:
    limits = {"a/memory.max": "max\n", "a/memory.current": "1\n"}
    places = host(tmp_path, cgroup="0::/a\n", limits=limits)
    assert available_memory(**places).memory == 2048 * MIB


def test_cgroup_of_the_first_version_limits_also_where_its_path_is_the_host_s(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": str(256 * MIB), "memory/memory.usage_in_bytes": "0"}
    found = available_memory(**host(tmp_path, cgroup="5:cpuset,memory:/docker/abc\n", limits=files))
    assert (found.with_swap, found.limited_by) == (256 * MIB, "the memory cgroup /")


def test_a_request_that_cannot_be_served_is_refused_with_the_figures(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        check_memory(topology(2048 * MIB, 1024 * MIB), **host(tmp_path))
    assert f"guests need {3072 + 2 * OVERHEAD // MIB} MiB" in caught.value.message
    assert "2048 MiB are available" in caught.value.message
    assert caught.value.exit_code == 3


def test_a_request_to_the_limit_is_served(tmp_path: Path) -> None:
    places = host(tmp_path)
    check_memory(topology(3072 * MIB - OVERHEAD), **places)
    assert memory_need(topology(3072 * MIB - OVERHEAD), **places).swaps
    with pytest.raises(HostError):
        check_memory(topology(3072 * MIB - OVERHEAD + 1), **places)


def test_reads_this_host(tmp_path: Path) -> None:
    check_memory(topology())
    with pytest.raises(HostError, match="not enough memory"):
        check_memory(topology(1 << 60))


def test_what_links_share_counts_beside_the_guests_memory(tmp_path: Path) -> None:
    places = host(tmp_path)
    check_memory(topology(3072 * MIB - OVERHEAD), **places)
    with pytest.raises(HostError, match="not enough memory: guests need 3088 MiB"):
        check_memory(topology(3072 * MIB - OVERHEAD), shared=16 * MIB, **places)
