"""What is needed of the host's kernel and limits is tried, and named with a remedy where it is not there."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vpctl.errors import HostError
from vpctl.process import keeps_thread_times, try_pidfds
from vpctl.qemu.host import Finding, examine_host, open_files, require_host, thread_times

LOOK = """
import sys
from vpctl.qemu.host import examine_host
for finding in examine_host({"the broker": 112, "the QEMU of `vm1`": 50}):
    print(finding.name, finding.ok, finding.message, finding.remedy, sep="|")
"""


def found(*before: str) -> dict[str, list[str]]:
    """Look at the host from a process that is started by these words."""
    done = subprocess.run([*before, sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    return {words[0]: words[1:] for words in (line.split("|") for line in done.stdout.splitlines())}


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Have a soft limit of open files; the hard one could not be raised again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_host_that_runs_the_tests_has_all_of_it() -> None:
    assert {
        finding.name: finding.message for finding in examine_host({"the broker": 50}) if finding.ok == "failed"
    } == {}
    require_host({"the broker": 50})


def test_a_network_namespace_without_a_loopback_is_refused() -> None:
    unshare = ["unshare", "-rn"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network namespaces here")
    ok, message, remedy = found(*unshare)["loopback"]
    assert (ok, remedy) == ("failed", "ip link set lo up")
    assert "127.0.0.1" in message


def test_the_hard_limit_of_open_files_counts_since_the_soft_one_is_raised() -> None:
    with limited(50):
        assert open_files({"the broker": 112}).ok != "failed"
    few = found("prlimit", "--nofile=90:90")["open files"]
    assert few[:2] == ["failed", "90 allowed, 112 are needed by the broker"]
    assert found("prlimit", "--nofile=120:120")["open files"][0] == "warning"
    assert found("prlimit", "--nofile=1024:1024")["open files"][0] == "ok"


def test_up_is_refused_with_the_remedy() -> None:
    script = "from vpctl.qemu.host import require_host; require_host({'the broker': 40, 'the QEMU of `vm1`': 576})"
    argv = ["prlimit", "--nofile=256:256", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert f"{HostError.__name__}: open files: 256 allowed, 576 are needed by the QEMU of `vm1`" in done.stderr


@pytest.mark.parametrize("content", [None, "", "0 0 0\n", "nonsense\n"])
def test_a_kernel_that_keeps_no_times_of_threads_is_told(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "self").mkdir()
    if content is not None:
        (tmp_path / "self/schedstat").write_text(content)
    assert not keeps_thread_times(tmp_path)
    finding = thread_times(tmp_path)
    assert (finding.ok, "schedstat" in finding.message) == ("warning", True)
    assert finding.remedy


def test_the_times_of_this_kernel_are_found() -> None:
    assert keeps_thread_times() == (thread_times().ok == "ok")
    assert isinstance(thread_times(), Finding)


def test_this_kernel_has_pidfds() -> None:
    assert try_pidfds()
