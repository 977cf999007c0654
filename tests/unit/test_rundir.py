"""Paths, permissions, locks between real processes, and writes that are whole or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes.broker import made
from vpctl.errors import HostError, UsageError
from vpctl.process import running
from vpctl.rundir import (
    SOCKET_PATH_MAX,
    Directories,
    RunDir,
    host_boot_id,
    is_locked,
    locked,
    private_directory,
    read_json,
    turn,
    write_atomic,
    write_json,
)
from vpctl.wait import until

ROOT = Path(__file__).parents[2]


def roots_of(environ: dict[str, str]) -> tuple[str, str, str]:
    found = Directories.from_environment(environ)
    return str(found.run), str(found.state), str(found.cache)


OWN = f"/tmp/vpctl-{os.getuid()}"


def test_variables_win_over_xdg_and_that_over_home(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "TMPDIR": "/elsewhere"}
    xdg = {**home, "XDG_STATE_HOME": "/xs", "XDG_CACHE_HOME": "/xc", "XDG_RUNTIME_DIR": "/xr"}
    own = {**xdg, "VPCTL_RUN_DIR": "/r", "VPCTL_STATE_DIR": "/s", "VPCTL_CACHE_DIR": "/c"}

    assert roots_of(home) == (OWN, f"{tmp_path}/.local/state/vpctl", f"{tmp_path}/.cache/vpctl")
    assert roots_of(xdg) == (OWN, "/xs/vpctl", "/xc/vpctl")
    assert roots_of(own) == ("/r", "/s", "/c")
    assert roots_of({**own, "VPCTL_RUN_DIR": ""})[0] == OWN


def test_relative_xdg_directories_are_ignored(tmp_path: Path) -> None:
    relative = {"HOME": str(tmp_path), "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "./cache"}
    assert roots_of(relative) == roots_of({"HOME": str(tmp_path)})


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent", "/proc/self", "not-mine", "not-writable"])
@pytest.mark.parametrize("entry", [True, False])
def test_a_home_counts_only_if_it_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None, entry: bool
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "other").mkdir()

    def of_uid(uid: int) -> SimpleNamespace:
        if not entry:
            raise KeyError(uid)
        return SimpleNamespace(pw_dir=str(real))

    monkeypatch.setattr("vpctl.rundir.pwd.getpwuid", of_uid)
    if home in ("not-mine", "not-writable"):
        path = tmp_path / "other"
        if os.getuid() != 0:
            pytest.skip("only root can give a directory away, and then it can be written to all the same")
        if home == "not-mine":
            os.chown(path, 12345, 12345)
        else:
            allowed = os.access

            def access(asked: Path, mode: int) -> bool:  # root may write anywhere
                return asked != path and allowed(asked, mode)

            monkeypatch.setattr("vpctl.rundir.os.access", access)
        home = str(path)
    environ = {} if home is None else {"HOME": home}
    expected = (OWN, f"{real}/.local/state/vpctl", f"{real}/.cache/vpctl")
    assert roots_of(environ) == (expected if entry else (OWN, f"{OWN}-state", f"{OWN}-cache"))


@pytest.mark.parametrize("path", [b"/tmp/\xff", b"/tmp/a\nb", b"/tmp/a\x7f", b"/tmp/\x1b[1m"])
@pytest.mark.parametrize("variable", ["VPCTL_RUN_DIR", "VPCTL_STATE_DIR", "VPCTL_CACHE_DIR"])
def test_a_path_that_cannot_be_handed_to_qemu_is_refused(path: bytes, variable: str) -> None:
    with pytest.raises(UsageError, match=r"is no UTF-8|has control characters") as caught:
        Directories.from_environment({variable: os.fsdecode(path)})
    assert caught.value.hint == f"set {variable} to another directory"
    caught.value.message.encode()  # can be printed


def test_two_roots_of_one_process_are_apart_and_survive_argv(tmp_path: Path) -> None:
    for odd in ("a b", "a,b", "a=b", "ü", "%h", "'", "$HOME"):
        roots = Directories(run=tmp_path / odd / "r", state=tmp_path / odd / "s", cache=tmp_path)
        assert RunDir.from_words(roots.topology("pair").as_words()) == roots.topology("pair")


def test_a_topologys_directories_are_found_from_each_other(tmp_path: Path) -> None:
    then = Directories(run=tmp_path / "r1", state=tmp_path / "s1", cache=tmp_path)
    rundir = made(then)
    other_run = Directories(run=tmp_path / "r2", state=then.state, cache=tmp_path)
    other_state = Directories(run=then.run, state=tmp_path / "s2", cache=tmp_path)
    for now in (other_run, other_state):
        assert now.topology("pair") == rundir
        assert now.topologies() == ["pair"]
    rundir.remove_run()  # the logs of a run that is over do not say where the next one is to be
    assert other_run.topology("pair").run == tmp_path / "r2/pair"


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
        own = Directories.from_environment(
            {"VPCTL_RUN_DIR": run, "VPCTL_STATE_DIR": "/s", "VPCTL_CACHE_DIR": "/c"}
        ).topology("pair")
        return max(len(os.fsencode(path)) for path in own.sockets(["vm1"], ["lan0"]))

    run = "/" + "x" * (SOCKET_PATH_MAX - longest("/x") + 1 + spare)
    own = Directories.from_environment(
        {"VPCTL_RUN_DIR": run, "VPCTL_STATE_DIR": "/s", "VPCTL_CACHE_DIR": "/c"}
    ).topology("pair")
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
        with pytest.raises(UsageError, match="another vpctl holds"), locked(path):
            pass
        holder.kill()
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    assert not is_locked(tmp_path / "lock")


def test_asking_for_a_lock_neither_makes_nor_takes_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


async def test_who_waits_for_a_lock_is_told_whose_it_is_and_can_be_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    source = (
        "import sys; from pathlib import Path; from vpctl.rundir import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    argv = [sys.executable, "-c", source, str(path)]
    async with running(argv, cwd=ROOT, stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        told: list[str] = []
        entered = asyncio.Event()

        async def wait() -> None:
            async with turn(path, waiting=told.append):
                entered.set()

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await until(lambda: _is_true(len(told) == 2), timeout=30, what="two that wait")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not entered.is_set()
        assert told[0].startswith(f"process {holder.pid} ({sys.executable}")
        holder.kill()
        await second
        assert entered.is_set()
    assert not is_locked(path)


async def _is_true(value: bool) -> bool | None:
    return value or None


def test_boot_id_stays_for_the_boot() -> None:
    assert host_boot_id() == host_boot_id()
    assert len(host_boot_id()) == 36
