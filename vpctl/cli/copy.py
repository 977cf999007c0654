"""`vpctl cp`: files into a guest and out of it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError


async def copy(
    context: Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A host path, or VM:PATH.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A host path, or VM:PATH.")],
) -> Result:
    """Copy a file or directory between host and guest, with sftp; one side is VM:PATH.

    Permissions and times are kept, setuid and setgid are not. A file that is there is replaced at the end, at once.
    """
    import asyncssh

    from vpctl.cli.guest import address
    from vpctl.guest import ssh as guest_ssh
    from vpctl.guest.copying import Copier

    into, out_of = split(target), split(source)
    if (into is None) == (out_of is None):
        raise UsageError("one of the two paths must be VM:PATH", hint="vpctl cp FILE vm1:/tmp/")
    vm, path = into if into is not None else out_of or ("", "")
    async with guest_ssh.connection(address(context, vm)) as connection:
        try:
            async with connection.start_sftp_client() as sftp:
                copier = Copier(connection, sftp)
                if into is not None:
                    await copier.put(os.fsencode(source), os.fsencode(path or "."))
                else:
                    await copier.get(os.fsencode(path or "."), os.fsencode(target))
        except (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise guest_ssh.GuestSshError(f"`cp` of {vm}: the connection broke", hint=f"vpctl logs {vm}") from error
        except (OSError, asyncssh.Error) as error:
            raise UsageError(f"cannot copy `{source}` to `{target}`: {error}") from error
    if copier.left_out:
        left = ", ".join(f"`{each}`" for each in copier.left_out[:5])
        more = f" and {len(copier.left_out) - 5} more" if len(copier.left_out) > 5 else ""
        raise UsageError(f"left out, as neither files nor directories: {left}{more}", hint=f"vpctl exec {vm} -- …")
    return Result(data={"schema_version": 1, "source": source, "target": target})


def split(path: str) -> tuple[str, str] | None:
    """Return VM and path of `VM:PATH`; None for a host path (one with a slash before the colon is one)."""
    head, colon, tail = path.partition(":")
    return (head, tail) if colon and "/" not in head and head else None
