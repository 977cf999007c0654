"""CPU time of processes, as the kernel accounts for it."""

from __future__ import annotations

import os
import time

from vpctl.bench.cpu import process_cpu_seconds, vhost_threads


def test_the_time_of_a_process_grows_as_it_computes_and_one_that_is_gone_has_none() -> None:
    before, own = process_cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < own + 0.1:
        pass
    assert 0.05 <= process_cpu_seconds(os.getpid()) - before < 10
    assert process_cpu_seconds(1 << 30) == 0.0


def test_a_process_without_vhost_net_has_no_threads_of_it() -> None:
    assert vhost_threads(os.getpid()) == []
