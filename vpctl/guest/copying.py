"""Files into a guest and out of it, by sftp: each arrives whole or not at all, and is read to its end.

asyncssh's own `put` and `get` go by the size that a file is said to have, which is 0 in /proc and 4096 in /sys, leave
a part behind when they are interrupted, and keep setuid.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from vpctl.errors import UsageError
from vpctl.text import printable
from vpctl.wait import standstill

if TYPE_CHECKING:
    import asyncssh

CHUNK = 4 << 20

MODE = 0o777
"""Permissions that are kept: setuid and setgid would be those of another user at the other side."""

CLEANUP_SECONDS = 2.0

WITHOUT_SFTP = ("dropbear", "tinyssh")
"""Servers that leave sftp to another program, in most images OpenSSH's `sftp-server`."""


class Copier:
    """Copies over one sftp session; what is neither file, directory nor symbolic link is left out and noted."""

    def __init__(self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient) -> None:
        self._sftp = sftp
        self._version = str(connection.get_extra_info("server_version", ""))
        self._crossed: bool | None = None
        self.left_out: list[str] = []

    # Section: into the guest

    async def put(self, source: bytes, target: bytes) -> None:
        """Copy a path of the host to one of the guest, into it if that is a directory; OSError, asyncssh.Error."""
        if await self._sftp.isdir(target):
            target = _below(target, source)
        await self._put(source, target)

    async def _put(self, source: bytes, target: bytes) -> None:
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            await self._put_link(os.readlink(source), target)
        elif stat.S_ISDIR(info.st_mode):
            if not await self._sftp.isdir(target):
                await self._sftp.mkdir(target)
            for name in sorted(os.listdir(source)):
                await self._put(os.path.join(source, name), posixpath.join(target, name))
            await self._set(target, info)
        elif stat.S_ISREG(info.st_mode):
            await self._put_file(source, target, info)
        else:
            self._leave_out(source)

    async def _put_file(self, source: bytes, target: bytes, info: os.stat_result) -> None:
        if await self._sftp.islink(target):
            target = await self._sftp.realpath(target)
        with open(source, "rb") as stream:
            async with self._written(target) as (written, aside):
                offset = 0
                while data := stream.read(CHUNK):
                    await written.write(data, offset)
                    offset += len(data)
                await written.close()
                if aside is not None:
                    await self._set(aside, info)

    @asynccontextmanager
    async def _written(self, target: bytes) -> AsyncIterator[tuple[asyncssh.SFTPClientFile, bytes | None]]:
        """Yield a file, and its path, that becomes the target at the end of the block if all went well.

        Where none can be made beside the target, as in /proc and /sys, it is the target itself, and so for a device:
        None is its path then, and permissions and times stay what they are.
        """
        import asyncssh

        aside: bytes | None = None
        if await self._sftp.isfile(target) or not await self._sftp.exists(target):
            aside = _aside(target)
        try:
            written = await self._sftp.open(aside or target, "xb" if aside else "wb", encoding=None)
        except (asyncssh.SFTPFailure, asyncssh.SFTPPermissionDenied, asyncssh.SFTPNoSuchFile):
            if aside is None:
                raise
            aside = None
            written = await self._sftp.open(target, "wb", encoding=None)
        try:
            yield written, aside
            if aside is not None:
                await self._rename(aside, target)
                aside = None
        finally:
            await _bounded(written.close())
            if aside is not None:
                await _bounded(self._sftp.remove(aside))

    async def _put_link(self, points_to: bytes, target: bytes) -> None:
        aside = _aside(target)
        if await self._takes_link_first():
            await self._sftp.symlink(aside, points_to)
        else:
            await self._sftp.symlink(points_to, aside)
        await self._rename(aside, target)

    async def _takes_link_first(self) -> bool:
        """Whether what asyncssh takes for the path of a symbolic link is where it points to.

        OpenSSH's sftp-server takes the two the other way round than the draft says (its PROTOCOL, 4.1), so asyncssh
        looks at the ssh server's version. Behind dropbear that tells nothing; an extension of the sftp server's does.
        """
        import asyncssh

        if self._crossed is None:
            self._crossed = False
            if any(name in self._version.lower() for name in WITHOUT_SFTP):
                try:
                    await self._sftp.posix_rename(_aside(b"/nowhere/a"), b"/nowhere/b")
                except asyncssh.SFTPOpUnsupported:
                    pass
                except asyncssh.SFTPError:
                    self._crossed = True
        return self._crossed

    async def _rename(self, source: bytes, target: bytes) -> None:
        import asyncssh

        try:
            await self._sftp.posix_rename(source, target)
        except asyncssh.SFTPOpUnsupported:
            with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                await self._sftp.remove(target)
            await self._sftp.rename(source, target)

    async def _set(self, target: bytes, info: os.stat_result) -> None:
        """Give a path of the guest its permissions and times."""
        import asyncssh

        attributes = asyncssh.SFTPAttrs(
            permissions=info.st_mode & MODE, atime=int(info.st_atime), mtime=int(info.st_mtime)
        )
        await self._sftp.setstat(target, attributes)

    # Section: out of the guest

    async def get(self, source: bytes, target: bytes) -> None:
        """Copy a path of the guest to one of the host, into it if that is a directory; OSError, asyncssh.Error.

        What the guest says is not trusted: no name leads out of the directory that it stands in, and no symbolic link
        that came from the guest is followed.
        """
        info = await self._sftp.lstat(source)
        if os.path.isdir(target):
            target = _below(target, source)
        await self._get(source, target, info)

    async def _get(self, source: bytes, target: bytes, info: asyncssh.SFTPAttrs, *, is_ours: bool = True) -> None:
        kind = stat.S_IFMT(info.permissions or stat.S_IFREG)
        if kind == stat.S_IFLNK:
            _make_link(await self._sftp.readlink(source), target)
        elif kind == stat.S_IFDIR:
            await self._get_directory(source, target, info, is_ours=is_ours)
        elif kind == stat.S_IFREG:
            await self._get_file(source, os.path.realpath(target) if is_ours else target, info)
        else:
            self._leave_out(source)

    async def _get_directory(self, source: bytes, target: bytes, info: asyncssh.SFTPAttrs, *, is_ours: bool) -> None:
        if not os.path.isdir(target) or (os.path.islink(target) and not is_ours):
            os.mkdir(target, 0o700)  # refused where a link or a file has the name
        seen = set()
        async for entry in self._sftp.scandir(source):
            name = entry.filename if isinstance(entry.filename, bytes) else entry.filename.encode()
            if name in (b".", b".."):
                continue
            if name in seen or b"/" in name or b"\0" in name or not name:
                raise UsageError(f"`{printable(os.fsdecode(name))}` is no name of a file, as the guest says it is")
            seen.add(name)
            await self._get(posixpath.join(source, name), os.path.join(target, name), entry.attrs, is_ours=False)
        os.chmod(target, (info.permissions or 0o755) & MODE)
        _set_times(target, info)

    async def _get_file(self, source: bytes, target: bytes, info: asyncssh.SFTPAttrs) -> None:
        stream = await self._sftp.open(source, "rb", encoding=None)
        try:
            with _replaced(target) as fd:
                offset = 0
                while data := await stream.read(CHUNK, offset):
                    assert isinstance(data, bytes)
                    offset += len(data)
                    view = memoryview(data)
                    while view:
                        with standstill.possible():
                            view = view[os.write(fd, view) :]
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.fchmod(fd, (info.permissions or 0o644) & MODE)
                    _set_times(fd, info)
        finally:
            await _bounded(stream.close())

    def _leave_out(self, path: bytes) -> None:
        self.left_out.append(printable(os.fsdecode(path)))


async def _bounded(cleanup: Awaitable[object]) -> None:
    """Clean up at a guest that may not answer any more, or not know of what there was."""
    import asyncssh

    with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
        async with asyncio.timeout(CLEANUP_SECONDS):
            await cleanup


def _below(directory: bytes, source: bytes) -> bytes:
    """Return the path that a source gets in a directory; the directory itself for what has no name of its own."""
    name = posixpath.basename(source.rstrip(b"/"))
    return directory if name in (b"", b".", b"..") else posixpath.join(directory, name)


def _aside(target: bytes) -> bytes:
    """Return a new name beside a path, not longer than a name may be."""
    directory, name = posixpath.split(target)
    return posixpath.join(directory, b"." + name[:200] + f".vpctl-{secrets.token_hex(4)}".encode())


@contextmanager
def _replaced(target: bytes) -> Iterator[int]:
    """Yield a descriptor of a file that becomes the target at the end of the block, if all went well.

    Where none can be made beside the target it is the target itself, and so for a device.
    """
    aside: bytes | None = None
    if os.path.isfile(target) or not os.path.lexists(target):
        aside = _aside(target)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW if aside is not None else os.O_TRUNC
        with standstill.possible():  # at a named pipe
            fd = os.open(aside or target, os.O_WRONLY | flags, 0o600)
    except PermissionError:
        if aside is None:
            raise
        aside, fd = None, os.open(target, os.O_WRONLY | os.O_TRUNC)
    try:
        yield fd
        if aside is not None:
            os.replace(aside, target)
            aside = None
    finally:
        os.close(fd)
        if aside is not None:
            os.unlink(aside)


def _make_link(points_to: bytes, target: bytes) -> None:
    aside = _aside(target)
    os.symlink(points_to, aside)
    try:
        os.replace(aside, target)
    except OSError:
        os.unlink(aside)
        raise


def _set_times(target: bytes | int, info: asyncssh.SFTPAttrs) -> None:
    if info.atime is not None and info.mtime is not None:
        os.utime(target, (info.atime, info.mtime))
