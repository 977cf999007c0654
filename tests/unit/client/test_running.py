"""Which topologies run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.broker import made
from tests.unit.client.processes import empty_topology
from vpctl.client import connection, running, stop
from vpctl.errors import NotFoundError
from vpctl.rundir import Directories, is_locked


def test_what_does_not_run_is_named_with_what_does(directories: Directories) -> None:
    made(directories, "left-over")
    assert running.running_topologies(directories) == []
    with pytest.raises(NotFoundError, match="no topology named `pair` runs") as caught:
        running.require_running(directories, "pair")
    assert caught.value.hint is not None
    assert "running: none" in caught.value.hint


async def test_another_tmpdir_and_relative_directories_change_nothing(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directories.run.parent)
    relative = Directories.from_environment({"VPCTL_RUN_DIR": "r", "VPCTL_STATE_DIR": "s", "VPCTL_CACHE_DIR": "c"})
    async with empty_topology(relative) as rundir:
        assert (await connection.job_through_restarts(rundir, "up"))["state"] == "up"
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        elsewhere = Directories(run=tmp_path / "run", state=relative.state, cache=relative.cache)
        assert running.running_topologies(elsewhere) == ["empty"]
        assert running.require_running(elsewhere, "empty") == rundir
        await stop.stop(elsewhere.topology("empty"))
    assert not rundir.run.exists()


async def test_launching_leaves_no_lock_and_no_directory_where_nothing_was_started(directories: Directories) -> None:
    async with running.launching(directories, "pair") as rundir:
        assert is_locked(rundir.launch_lock)
    assert not directories.run.exists()
    async with running.launching(directories, "pair") as rundir:
        made(directories)
    assert rundir.run.exists()
    assert not is_locked(rundir.launch_lock)
