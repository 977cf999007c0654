"""Whose process it is that asks."""

from __future__ import annotations

import os
import socket
import subprocess

from vpctl.credentials import belongs_to, peer_pid


def test_the_process_that_connected_is_named_whoever_holds_the_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_pid(one) == os.getpid()


def test_a_process_belongs_to_its_parents_and_to_its_session() -> None:
    assert belongs_to(os.getpid(), {os.getpid()})
    assert belongs_to(os.getpid(), {os.getppid()})
    assert belongs_to(os.getpid(), {os.getsid(0)})
    assert not belongs_to(os.getpid(), set())
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        assert belongs_to(process.pid, {os.getpid()})
        assert not belongs_to(os.getpid(), {process.pid})
        process.kill()


def test_one_that_is_gone_belongs_to_all_and_one_of_another_pid_namespace_to_none() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert belongs_to(process.pid, set())
    assert not belongs_to(0, {os.getpid()})
