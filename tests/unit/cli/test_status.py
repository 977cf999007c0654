"""`vpctl status` of a topology whose broker and supervisor are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.fakes.broker import made
from vpctl.process import identify
from vpctl.rundir import Directories, host_boot_id, write_json


def test_guests_without_a_supervisor_are_not_well_which_is_1(directories: Directories) -> None:
    rundir = made(directories)
    guest = identify(os.getpid())
    assert guest is not None
    process = {"name": "vm/vm1", "generation": 1, "pid": guest.pid, "start_time": guest.start_time, "directory": "/x"}
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [process]})
    vm = {
        "name": "vm1",
        "state": "ready",
        "pid": guest.pid,
        "accelerator": "tcg",
        "qemu_version": "7.2.22",
        "generation": 1,
        "ssh": {"host": "127.0.0.1", "port": 0},
    }
    status = {"schema_version": 1, "name": "pair", "state": "running", "vms": [vm], "links": []}
    write_json(rundir.status, {**status, "supervisor": {"pid": 77}})
    argv = [sys.executable, "-m", "vpctl", "status", "pair", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == {**status, "supervisor": {"pid": None}}
    assert "own processes of `pair` are gone" in done.stderr
