"""`vpctl version`."""

from __future__ import annotations

import platform

from vpctl import __version__
from vpctl.cli.verb import Context, Result


async def version(context: Context) -> Result:
    """Print the version of vpctl, and of the QEMU that it would use."""
    from vpctl.errors import VpctlError
    from vpctl.qemu.probe import find_qemu, probe

    try:
        qemu = (await probe(find_qemu(None, context.environ), cache=context.directories.cache)).version_text
    except VpctlError as error:
        qemu = f"none ({error.message})"
    data = {"schema_version": 1, "vpctl": __version__, "python": platform.python_version(), "qemu": qemu}
    return Result(data=data, text=f"vpctl {__version__} (Python {data['python']}, QEMU {qemu})")
