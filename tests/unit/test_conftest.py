"""The rules of tests/conftest.py can fail: a guard that never does guards nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import isolated_directories, processes_mentioning
from vpctl.rundir import Directories

ROOT = Path(__file__).parents[2]


def run_pytest(tmp_path: Path, source: str, **environ: str) -> tuple[int, str]:
    """Run pytest over one made-up module under the repository's conftest."""
    (tmp_path / "test_made_up.py").write_text(source)
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    config = ["-c", str(ROOT / "pyproject.toml"), "-o", f"pythonpath={ROOT}"]
    env = {name: value for name, value in os.environ.items() if name != "CI"} | environ
    done = subprocess.run([*argv, *config], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_names_and_ends_a_process_that_was_left_running() -> None:
    environ = dict(os.environ)
    with pytest.raises(AssertionError, match="left running"), isolated_directories(environ) as own:
        child = subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True)
        assert [process.pid for process in processes_mentioning(own.run)] == [child.pid]
    assert child.wait(timeout=10) == -9


def test_gives_back_the_directories_that_were_set_before() -> None:
    environ = {"VPCTL_RUN_DIR": "/before"}
    with isolated_directories(environ) as own:
        assert environ["VPCTL_RUN_DIR"] == str(own.run)
    assert environ == {"VPCTL_RUN_DIR": "/before"}


def test_gives_every_test_its_own_run_directory(directories: Directories) -> None:
    assert directories.run == Path(os.environ["VPCTL_RUN_DIR"])
    assert len(str(directories.run)) < 30


@pytest.mark.parametrize("marker", ["vm", "mandatory"])
def test_skip_of_a_mandatory_test_fails_where_ci_is_set(tmp_path: Path, marker: str) -> None:
    source = f"import pytest\n@pytest.mark.{marker}\ndef test_it():\n    pytest.skip('no moon')\n"
    status, output = run_pytest(tmp_path, source, CI="true")
    assert status == 1
    assert "mandatory where CI is set: no moon" in output
    assert run_pytest(tmp_path, source)[0] == 0


def test_long_tests_run_only_when_asked_for(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.long\ndef test_it():\n    assert False\ndef test_other():\n    pass\n"
    status, output = run_pytest(tmp_path, source)
    assert status == 0, output
    assert "1 passed, 1 deselected" in output


def test_asyncio_runs_in_debug_mode(tmp_path: Path) -> None:
    source = "import asyncio\nasync def test_it():\n    assert asyncio.get_running_loop().get_debug()\n"
    status, output = run_pytest(tmp_path, source)
    assert status == 0, output
