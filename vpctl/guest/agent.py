"""The guest agent in images of the user's own: copied over ssh, since nothing of such an image may be assumed."""

from __future__ import annotations

import asyncio
import re
import shlex
from typing import TYPE_CHECKING

from vpctl.guest.ssh import GuestSshError

if TYPE_CHECKING:
    import asyncssh

BUILT_IN = "/usr/bin/vpctl-agent"

COPY_SECONDS = 60.0

PATH = re.compile(r"/[\w./-]{1,200}", re.ASCII)
"""What may be the agent's path; `mktemp` makes it of letters and digits."""

# Not /run, which many distributions mount noexec. A daemon that an earlier login left is replaced: it may hold
# another table of links.
_INSTALL = """
set -e
umask 022
if pidof vpctl-agent >/dev/null 2>&1 && [ -x {built_in} ]; then echo {built_in}; exit 0; fi
dir=$(mktemp -d /tmp/vpctl.XXXXXX)
cat >"$dir/vpctl-agent"
chmod 755 "$dir" "$dir/vpctl-agent"
printf %s {links} >"$dir/links"
setsid "$dir/vpctl-agent" daemon --links "$dir/links" </dev/null >"$dir/log" 2>&1 &
echo "$dir/vpctl-agent"
"""


async def install(ssh: asyncssh.SSHClientConnection, binary: bytes, links: str, *, vm: str) -> str:
    """Put the agent into a guest and start its daemon with a table of links, unless the image brings its own.

    Returns its path in the guest. GuestSshError if that fails: the user has to be root there, with a shell,
    mktemp and setsid.
    """
    import asyncssh

    script = _INSTALL.format(built_in=BUILT_IN, links=shlex.quote(links))
    try:
        async with asyncio.timeout(COPY_SECONDS):
            # latin-1 carries any byte as it is: the binary on the way in, paths and messages on the way out.
            done = await ssh.run(f"sh -c {shlex.quote(script)}", input=binary.decode("latin-1"), encoding="latin-1")
    except (OSError, asyncssh.Error) as error:
        raise GuestSshError(f"cannot copy the agent into {vm}: {error}") from error
    if done.exit_status != 0:
        said = str(done.stderr).strip()
        raise GuestSshError(f"cannot start the agent in {vm}: {said}", hint="`ssh_user` of the image must be root")
    path = str(done.stdout).rstrip().rpartition("\n")[2]
    if not PATH.fullmatch(path):
        raise GuestSshError(
            f"cannot start the agent in {vm}: its shell printed {path[-200:]!r}, and not the agent's path",
            hint="`ssh_user` of the image must have a POSIX shell",
        )
    return path
