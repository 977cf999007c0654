"""The cache of built images: what is there, who uses it, and how it goes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from vpctl.errors import HostError, NotFoundError, UsageError
from vpctl.image.files import check_initrd, check_kernel, disk_format
from vpctl.rundir import check_cache, host_boot_id, read_json, write_json

MANIFEST = "manifest.json"

VERIFIED = "verified.json"
"""Says of which files, at which state and in which boot of the host, the digests were last compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestImage:
    """Something that QEMU can boot: built here, or the user's own (then without directory contents of ours)."""

    name: str
    key: str
    directory: Path
    kernel: Path
    initrd: Path | None
    disk: Path | None
    kernel_args: str
    agent: Path
    manifest: Mapping[str, object] = field(hash=False)


def image_directory(cache: Path, name: str, key: str) -> Path:
    """Return where the image of a key lies, or would lie."""
    return cache / f"{name}-{key}"


def load_image(directory: Path) -> GuestImage | None:
    """Return the image in a directory; None if there is no whole one."""
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict):
        return None
    image = GuestImage(
        name=manifest["name"],
        key=manifest["key"],
        directory=directory,
        kernel=directory / "vmlinuz",
        initrd=directory / "initrd.img",
        disk=directory / "root.squashfs",
        kernel_args=manifest["kernel_args"],
        agent=directory / "vpctl-agent",
        manifest=MappingProxyType(manifest),
    )
    files = (image.kernel, image.initrd, image.disk, image.agent)
    return image if all(path is not None and path.is_file() for path in files) else None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def damage(image: GuestImage) -> str | None:
    """Return in words how an image differs from what was built, by the digests in its manifest; None if not at all.

    Files that were read once are read again only after a boot of the host, or if they have changed since by their
    inode's times. Raises HostError if other users may write to one. This finds damage: who may write to the cache
    could write the manifest too, which is why the cache has to be the user's own.
    """
    expected = image.manifest.get("sha256")
    if not isinstance(expected, dict):
        return None  # of a vpctl that wrote none down
    files = {str(name): image.directory / str(name) for name in expected}
    check_cache(*files.values(), image.directory / MANIFEST)
    try:
        seen = {"boot_id": host_boot_id(), "sha256": expected, "files": {n: _inode(p) for n, p in files.items()}}
        if read_json(image.directory / VERIFIED) == seen:
            return None
        wrong = [name for name, path in files.items() if digest(path) != expected[name]]
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if wrong:
        return f"{' and '.join(wrong)} in {image.directory} is not what was built"
    with suppress(HostError):  # in a cache that cannot be written, they are read each time
        write_json(image.directory / VERIFIED, seen)
    return None


def _inode(path: Path) -> list[int]:
    """Return what changes whenever a file is written or replaced."""
    info = path.stat()
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def installed(cache: Path) -> list[GuestImage]:
    """Return the images in the cache, the newest first."""
    if not cache.is_dir():
        return []
    found = [load_image(path) for path in cache.iterdir() if not path.name.startswith(".")]
    return sorted((image for image in found if image), key=lambda image: str(image.manifest["built"]), reverse=True)


def hold(image: GuestImage) -> int:
    """Mark an image as in use for as long as the returned descriptor (or an inherited copy) is open.

    Raises HostError if the image was removed in the meantime.
    """
    try:
        fd = os.open(image.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"image {image.directory} is gone: {error.strerror}", hint="vpctl image build") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        (image.directory / MANIFEST).stat()
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(fd)
        raise HostError(f"image {image.directory} is being removed", hint="vpctl image build") from error
    return fd


def remove(cache: Path, key_or_name: str) -> list[GuestImage]:
    """Remove the images of a key (or the beginning of one) or a name; return them.

    Raises NotFoundError if there is none, UsageError, having removed nothing, if a running topology uses one.
    """
    chosen = [image for image in installed(cache) if key_or_name == image.name or image.key.startswith(key_or_name)]
    if not chosen or not key_or_name:
        raise NotFoundError(f"no image `{key_or_name}` in {cache}", hint="vpctl image list")
    locks: list[int] = []
    try:
        for image in chosen:
            locks.append(_lock_for_removal(image))
        for image in chosen:
            # The manifest goes first: without it the rest is no image, whatever interrupts this.
            (image.directory / MANIFEST).unlink()
            shutil.rmtree(image.directory)
    finally:
        for fd in locks:
            os.close(fd)
    return chosen


def own(kernel: Path, initrd: Path | None = None, disk: Path | None = None, *, kernel_args: str = "") -> GuestImage:
    """Describe the user's own boot files; UsageError names one that is missing, or that is something else."""
    for role, path in (("kernel", kernel), ("initrd", initrd), ("disk", disk)):
        if path is not None and not path.is_file():
            raise UsageError(f"{role} of the image does not exist: {path}", hint=f"correct `image: {{{role}: …}}`")
    check_kernel(kernel)
    if initrd is not None:
        check_initrd(initrd)
    if disk is not None:
        disk_format(disk)
    return GuestImage(
        name="own",
        key="",
        directory=kernel.parent,
        kernel=kernel,
        initrd=initrd,
        disk=disk,
        kernel_args=kernel_args,
        agent=Path(),
        manifest=MappingProxyType({}),
    )


def _lock_for_removal(image: GuestImage) -> int:
    fd = os.open(image.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise UsageError(
            f"image `{image.name}` {image.key} is in use by a running topology", hint="vpctl list; vpctl down NAME"
        ) from error
    return fd
