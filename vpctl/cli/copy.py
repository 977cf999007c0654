"""`vpctl cp`: files into a guest and out of it."""

from __future__ import annotations

from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError


async def copy(
    context: Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A host path, or VM:PATH.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A host path, or VM:PATH.")],
) -> Result:
    """Copy a file or directory between host and guest, with sftp; one side is VM:PATH."""
    import asyncssh

    from vpctl.cli.guest import address
    from vpctl.guest import ssh as guest_ssh

    into, out_of = split(target), split(source)
    if (into is None) == (out_of is None):
        raise UsageError("one of the two paths must be VM:PATH", hint="vpctl cp FILE vm1:/tmp/")
    vm, path = into if into is not None else out_of or ("", "")
    async with guest_ssh.connection(address(context, vm)) as connection:
        try:
            async with connection.start_sftp_client() as sftp:
                if into is not None:
                    await sftp.put(source, path or ".", preserve=True, recurse=True, follow_symlinks=False)
                else:
                    await sftp.get(path, target, preserve=True, recurse=True, follow_symlinks=False)
        except (OSError, asyncssh.Error) as error:
            raise UsageError(f"cannot copy `{source}` to `{target}`: {error}") from error
    return Result(data={"schema_version": 1, "source": source, "target": target})


def split(path: str) -> tuple[str, str] | None:
    """Return VM and path of `VM:PATH`; None for a host path (one with a slash before the colon is one)."""
    head, colon, tail = path.partition(":")
    return (head, tail) if colon and "/" not in head and head else None
