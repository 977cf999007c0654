"""Paths, permissions, locks between real processes, and writes that are whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.fakes.broker import made
from vpctl.errors import HostError, UsageError
from vpctl.rundir import (
    SOCKET_PATH_MAX,
    Directories,
    host_boot_id,
    is_locked,
    locked,
    private_directory,
    read_json,
    write_atomic,
    write_json,
)

ROOT = Path(__file__).parents[2]


def test_variables_win_over_xdg_and_that_over_home() -> None:
    home = {"HOME": "/h"}
    xdg = {**home, "XDG_STATE_HOME": "/xs", "XDG_CACHE_HOME": "/xc", "XDG_RUNTIME_DIR": "/xr"}
    own = {**xdg, "VPCTL_RUN_DIR": "/r", "VPCTL_STATE_DIR": "/s", "VPCTL_CACHE_DIR": "/c"}

    def roots(environ: dict[str, str]) -> tuple[str, str, str]:
        found = Directories.from_environment(environ)
        return str(found.run), str(found.state), str(found.cache)

    run = f"{tempfile.gettempdir()}/vpctl-{os.getuid()}"
    assert roots(home) == (run, "/h/.local/state/vpctl", "/h/.cache/vpctl")
    assert roots(xdg) == (run, "/xs/vpctl", "/xc/vpctl")
    assert roots(own) == ("/r", "/s", "/c")
    assert roots({**own, "VPCTL_RUN_DIR": ""})[0] == run


def test_relative_roots_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Directories.from_environment({"VPCTL_RUN_DIR": "r"}).run == tmp_path / "r"


def test_topologies_are_what_vpctl_has_made_in_either_root(directories: Directories) -> None:
    assert directories.topologies() == []
    for name in ("b", "a", "c"):
        made(directories, name)
    directories.topology("c").remove_run()
    directories.topology("a").remove_state()
    (directories.run / "file").touch()
    (directories.run / "foreign").mkdir()
    assert directories.topologies() == ["a", "b", "c"]


def test_no_two_paths_of_a_topology_are_the_same(directories: Directories) -> None:
    own = directories.topology("pair")
    sockets = own.sockets(["vm1", "vm2"], ["lan0"])
    assert len(sockets) == len(set(sockets)) == 2 + 2 * 3 + 1


@pytest.mark.parametrize("spare", [0, 1])
def test_a_socket_path_may_fill_sun_path_to_the_last_byte(spare: int) -> None:
    def longest(run: str) -> int:
        own = Directories.from_environment({"VPCTL_RUN_DIR": run, "HOME": "/h"}).topology("pair")
        return max(len(os.fsencode(path)) for path in own.sockets(["vm1"], ["lan0"]))

    run = "/" + "x" * (SOCKET_PATH_MAX - longest("/x") + 1 + spare)
    own = Directories.from_environment({"VPCTL_RUN_DIR": run, "HOME": "/h"}).topology("pair")
    if spare == 0:
        own.check_socket_paths(["vm1"], ["lan0"])
    else:
        with pytest.raises(HostError, match="108 bytes is longer than 107") as caught:
            own.check_socket_paths(["vm1"], ["lan0"])
        assert "VPCTL_RUN_DIR" in (caught.value.hint or "")


def test_counts_bytes_not_letters(directories: Directories) -> None:
    own = Directories(run=Path("/" + "ü" * 50), state=directories.state, cache=directories.cache).topology("pair")
    with pytest.raises(HostError):
        own.check_socket_paths(["vm1"], ["lan0"])


def test_a_private_directory_is_made_with_its_parents_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    private_directory(path)
    private_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_umask_makes_it_no_more_open(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_directory(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_refuses_a_directory_that_others_may_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(HostError, match="is open to other users"):
        private_directory(tmp_path)


def test_refuses_a_link_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(HostError, match="is not a directory of this user"):
        private_directory(tmp_path / "link")


def test_refuses_a_directory_of_another_user(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(HostError, match="is not a directory of this user"):
        private_directory(path)


def test_a_directory_that_cannot_be_made_is_a_host_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot create"):
        private_directory(tmp_path / "file/a")


def test_a_file_is_replaced_as_a_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    with path.open() as reader:
        write_json(path, {"a": 1})
        assert reader.read() == "old"
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot write"):
        write_atomic(tmp_path / "missing/x", "text")


@pytest.mark.mandatory
def test_a_full_disk_is_a_host_error_and_the_old_file_stays(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    namespaces = ["--mount"] if os.getuid() == 0 else ["--mount", "--map-root-user"]
    if subprocess.run([unshare, *namespaces, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system needs root or unprivileged user namespaces")
    source = f"""
from pathlib import Path
from vpctl.errors import HostError
from vpctl.rundir import write_atomic
path = Path({str(tmp_path)!r}) / "status.json"
write_atomic(path, "old")
try:
    write_atomic(path, "x" * 1000000)
except HostError as error:
    print(error.message, error.hint)
print([entry.name for entry in path.parent.iterdir()], path.read_text())
"""
    script = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$0" -c "$1"'
    argv = [unshare, *namespaces, "sh", "-c", script, sys.executable, source]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    error, after = done.stdout.splitlines()
    assert error.endswith("status.json: No space left on device see `df` for the disk's space")
    assert after == "['status.json'] old"


@pytest.mark.parametrize("content", ["", "{", '{"a": ', "\0\0\0\0"])
def test_a_damaged_file_reads_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    assert read_json(tmp_path / "x") is None
    assert read_json(tmp_path / "missing") is None
    assert read_json(tmp_path / "x/below") is None


def test_a_lock_holds_against_another_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    source = (
        "import sys; from pathlib import Path; from vpctl.rundir import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    argv = [sys.executable, "-c", source, str(path)]
    assert not is_locked(path)
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        with pytest.raises(UsageError, match="another vpctl holds"), locked(path, wait=False):
            pass
        holder.kill()
    assert not is_locked(path)
    with locked(path, wait=False):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    assert not is_locked(tmp_path / "lock")


def test_asking_for_a_lock_neither_makes_nor_takes_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_boot_id_stays_for_the_boot() -> None:
    assert host_boot_id() == host_boot_id()
    assert len(host_boot_id()) == 36
