"""Copies over sftp: against asyncssh's server on a directory, and one that lies about what it has."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.fakes.broker import made
from tests.fakes.guest import host_key
from vpctl.errors import UsageError
from vpctl.guest import ssh
from vpctl.guest.copying import Copier
from vpctl.guest.keys import run_keys
from vpctl.guest.ssh import Address
from vpctl.rundir import Directories


class Served(asyncssh.SFTPServer):
    """A guest's files: the host's own."""

    sizes = True

    async def lstat(self, path: bytes) -> Any:
        return self._told(super().lstat(path))

    async def fstat(self, file_obj: object) -> Any:
        return self._told(super().fstat(file_obj))

    def _told(self, found: Any) -> Any:
        if not self.sizes:  # as /proc has it
            return asyncssh.SFTPAttrs(permissions=found.st_mode, size=0)
        return found


@asynccontextmanager
async def copier(directories: Directories, server: type[Served]) -> AsyncIterator[Copier]:
    """Yield a copier from and to the files of a server."""
    keys = run_keys(made(directories))
    listening = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key(keys)],
        authorized_client_keys=asyncssh.import_authorized_keys(keys.public),
        sftp_factory=server,
    )
    identity = directories.topology("pair").identity
    address = Address(vm="vm1", port=listening.get_port(), user="root", identity=identity, host_key=keys.host_public)
    try:
        async with ssh.connection(address) as connection, connection.start_sftp_client() as sftp:
            yield Copier(connection, sftp)
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    root = tmp_path / "guest"
    root.mkdir()
    return root


def tree(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return what is below a directory: modes, contents, where links point to."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        content: bytes | str = b""
        if path.is_symlink():
            mode, content = 0, str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (mode, content)
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def plant(root: Path) -> None:
    """Make files of every sort that is copied."""
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "big").write_bytes(os.urandom(9_000_000))
    (root / "d" / "empty").touch()
    (root / "d" / "sub" / "tool").write_text("#!/bin/sh\n", encoding="utf-8")
    (root / "d" / "sub" / "tool").chmod(0o4755)
    (root / "d" / "link").symlink_to("sub/tool")
    (root / "d" / "dangling").symlink_to("/nowhere")


async def test_a_directory_goes_there_and_back_without_setuid(
    directories: Directories, guest: Path, tmp_path: Path
) -> None:
    plant(tmp_path)
    wanted = {name: (mode & 0o777, content) for name, (mode, content) in tree(tmp_path / "d").items()}
    async with copier(directories, Served) as copies:
        for _ in range(2):  # what is there is replaced
            await copies.put(os.fsencode(tmp_path / "d"), os.fsencode(guest))
        assert tree(guest / "d") == wanted
        (guest / "d" / "sub" / "tool").chmod(0o6755)
        (tmp_path / "back").mkdir()
        for _ in range(2):
            await copies.get(os.fsencode(guest / "d"), os.fsencode(tmp_path / "back"))
        assert copies.left_out == []
    assert tree(tmp_path / "back" / "d") == wanted


async def test_a_file_is_read_to_its_end_whatever_size_it_is_said_to_have(
    directories: Directories, guest: Path, tmp_path: Path
) -> None:
    class Sizeless(Served):
        sizes = False

    (guest / "version").write_text("Linux", encoding="utf-8")
    async with copier(directories, Sizeless) as copies:
        await copies.get(os.fsencode(guest / "version"), os.fsencode(tmp_path / "got"))
    assert (tmp_path / "got").read_text(encoding="utf-8") == "Linux"


async def test_an_interrupted_copy_leaves_what_was_there(
    directories: Directories, guest: Path, tmp_path: Path
) -> None:
    under_way, interrupted = asyncio.Event(), asyncio.Event()

    class Slow(Served):
        async def read(self, file_obj: object, offset: int, size: int) -> bytes:
            under_way.set()
            await interrupted.wait()
            return b"new"

        async def write(self, file_obj: object, offset: int, data: bytes) -> int:
            under_way.set()
            await interrupted.wait()
            return len(data)

    (guest / "file").write_text("old", encoding="utf-8")
    (tmp_path / "file").write_text("old", encoding="utf-8")
    (tmp_path / "new").write_text("new", encoding="utf-8")
    async with copier(directories, Slow) as copies:
        for copying in (
            copies.put(os.fsencode(tmp_path / "new"), os.fsencode(guest / "file")),
            copies.get(os.fsencode(guest / "file"), os.fsencode(tmp_path / "file")),
        ):
            under_way.clear()
            interrupted.clear()
            task = asyncio.create_task(copying)
            await under_way.wait()
            task.cancel()
            interrupted.set()  # the server has answered one request before it looks at the next
            await asyncio.wait([task])
            assert task.cancelled()
    assert tree(guest) == {"file": (tree(guest)["file"][0], b"old")}
    assert names(tmp_path) == {"guest", "file", "new"}
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"


def entry(name: bytes, mode: int) -> asyncssh.SFTPName:
    return asyncssh.SFTPName(name, attrs=asyncssh.SFTPAttrs(permissions=mode))


@pytest.mark.parametrize(
    "entries",
    [
        [entry(b"../../key", stat.S_IFREG | 0o644)],
        [entry(b"/key", stat.S_IFREG | 0o644)],
        [entry(b"", stat.S_IFREG | 0o644)],
        [entry(b"a", stat.S_IFLNK | 0o777), entry(b"a", stat.S_IFDIR | 0o755)],
    ],
    ids=["up", "absolute", "empty", "twice"],
)
async def test_a_guest_writes_nowhere_but_where_it_was_asked_to(
    entries: list[asyncssh.SFTPName], directories: Directories, guest: Path, tmp_path: Path
) -> None:
    class Hostile(Served):
        async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
            for each in entries:
                yield each

    (guest / "d").mkdir()
    (guest / "d" / "a").symlink_to(tmp_path)
    (guest / "key").write_text("secret", encoding="utf-8")
    target = tmp_path / "to" / "here"
    target.mkdir(parents=True)
    async with copier(directories, Hostile) as copies:
        with pytest.raises((UsageError, asyncssh.Error, OSError)):
            await copies.get(os.fsencode(guest / "d"), os.fsencode(target))
    assert names(tmp_path) == {"guest", "to"}
    assert names(tmp_path / "to") == {"here"}


async def test_what_is_no_file_is_left_out_and_noted(directories: Directories, guest: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "fifo")
    async with copier(directories, Served) as copies:
        await copies.put(os.fsencode(tmp_path / "d"), os.fsencode(guest))
        assert copies.left_out == [str(tmp_path / "d" / "fifo")]
        os.mkfifo(guest / "pipe")
        await copies.get(os.fsencode(guest / "pipe"), os.fsencode(tmp_path))
        assert copies.left_out[1:] == [str(guest / "pipe")]
