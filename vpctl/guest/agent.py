"""The guest agent in images of the user's own: copied over ssh, since nothing of such an image may be assumed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vpctl.guest.ssh import GuestSshError

if TYPE_CHECKING:
    import asyncssh

BUILT_IN = "/usr/bin/vpctl-agent"

COPY_SECONDS = 60.0

PATH = re.compile(r"/[\w./-]{1,200}", re.ASCII)
"""What may be the agent's path; `mktemp` makes it of letters and digits."""

PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/root", "/var/lib", "/opt", "/usr/local")
"""Where the agent may be put: the first in which the guest can write and execute. Hardened images mount the first
ones noexec (CIS benchmarks)."""

_INSTALL = """
set -e
umask 022
if pidof vpctl-agent >/dev/null 2>&1 && [ -x {built_in} ]; then echo {built_in}; exit 0; fi
for place in {places}; do
    dir=$(mktemp -d "$place/vpctl.XXXXXX" 2>/dev/null) || {{ why="$why $place: cannot be written to;"; continue; }}
    printf '#!/bin/sh\\nexit 0\\n' >"$dir/try" && chmod 755 "$dir" "$dir/try" &&
        "$dir/try" </dev/null 2>"$dir/why" && break
    why="$why $place: $(cut -c1-200 "$dir/why" | tr '\\n' ' ');"
    rm -rf "$dir"
    dir=
done
[ -n "$dir" ] || {{ echo "nothing can be executed (is it mounted noexec?):$why" >&2; exit 1; }}
rm -f "$dir/try" "$dir/why"
cat >"$dir/vpctl-agent"
chmod 755 "$dir/vpctl-agent"
"$dir/vpctl-agent" --version </dev/null >/dev/null
for process in /proc/[0-9]*; do
    binary=$(readlink "$process/exe" 2>/dev/null) || continue
    binary=${{binary% (deleted)}}
    copy=${{binary##*/vpctl.}}
    case $copy in ??????/vpctl-agent) ;; *) continue ;; esac
    case ${{copy%/vpctl-agent}} in *[!A-Za-z0-9]*) continue ;; esac
    case $(2>/dev/null tr '\\0' ' ' <"$process/cmdline") in
        */vpctl-agent\\ daemon\\ *)
            kill -9 "${{process#/proc/}}" 2>/dev/null || continue
            mv -f "${{binary%/*}}/links.moved" "$dir" 2>/dev/null || true
            rm -rf "${{binary%/*}}" ;;
    esac
done
printf %s {links} >"$dir/links"
setsid "$dir/vpctl-agent" daemon --links "$dir/links" </dev/null >"$dir/log" 2>&1 &
echo "$dir/vpctl-agent"
"""
"""A daemon that an earlier login left is ended, its copy removed: it may hold another table of links, and it holds
the port of the heartbeats, which is one process's at a time. Probes that run from that copy end by themselves."""

SAID = 500
"""Characters of what a guest said that an error repeats."""


async def install(ssh: asyncssh.SSHClientConnection, binary: bytes, links: str, *, vm: str) -> str:
    """Put the agent into a guest and start its daemon with a table of links, unless the image brings its own.

    Returns its path in the guest. GuestSshError if that fails: the user has to be root there, with a shell,
    mktemp and setsid.
    """
    import asyncssh

    script = install_script(links)
    try:
        async with asyncio.timeout(COPY_SECONDS):
            process = await ssh.create_process(f"sh -c {shlex.quote(script)}", encoding="latin-1")
            try:
                # A shell that refuses commands ends before it has taken all; what it says is to be told.
                with contextlib.suppress(OSError, asyncssh.Error):
                    # latin-1 carries any byte as it is: the binary on the way in, messages on the way out.
                    process.stdin.write(binary.decode("latin-1"))
                    process.stdin.write_eof()
                done = await process.wait()
            finally:
                process.close()
    except (OSError, asyncssh.Error) as error:
        raise GuestSshError(f"cannot copy the agent into {vm}: {error}") from error
    if done.exit_status is None and done.exit_signal is None:
        raise GuestSshError(f"cannot copy the agent into {vm}: the connection broke")
    path = (str(done.stdout).splitlines() or [""])[-1].strip()
    if done.exit_status != 0 or PATH.fullmatch(path) is None:
        status = done.exit_status if done.exit_status is not None else "none"
        message = (
            f"cannot start the agent in {vm}: {in_its_words(str(done.stderr), str(done.stdout))} (exit code {status})"
        )
        raise GuestSshError(message, hint="`ssh_user` of the image must be root, with a shell that executes commands")
    return path


def install_script(links: str, *, places: Sequence[str] = PLACES) -> str:
    """Return the shell script that takes the agent's binary on stdin, starts it and prints its path."""
    return _INSTALL.format(
        built_in=BUILT_IN, links=shlex.quote(links), places=" ".join(shlex.quote(place) for place in places)
    )


def in_its_words(*said: str) -> str:
    """Return what a guest has printed, in quotation marks, one line, without control characters and not too long."""
    text = " ".join(" ".join(said).encode("latin-1", "replace").decode(errors="replace").split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return f"it said `{text[:SAID]}{'…' if len(text) > SAID else ''}`" if text else "it said nothing"
