"""What a boot file of the user's own is, by its first and last bytes: what QEMU could only boot to nothing is named.

QEMU is told a disk's format, since probing trusts whatever a guest wrote to a raw disk. So what is neither qcow2 nor
plainly something else counts as raw, and a compressed download would be booted as a disk without a file system.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from vpctl.errors import UsageError

HEAD_BYTES, TAIL_BYTES = 4096, 512

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    # offset, bytes, what it is, what makes it usable (PATH is the file)
    (0, b"KDMV", "a VMDK image", "convert"),
    (0, b"COWD", "a VMDK image", "convert"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMDK image", "convert"),
    (0, b"vhdxfile", "a VHDX image", "convert"),
    (0, b"conectix", "a VHD image", "convert"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", "convert"),
    (0, b"QFI\xfb\x00\x00\x00\x01", "a qcow image of version 1", "convert"),
    (0, b"QED\x00", "a QED image", "convert"),
    (0, b"\x1f\x8b\x08", "compressed (gzip)", "gunzip -k PATH"),
    (0, b"\xfd7zXZ\x00", "compressed (xz)", "unxz -k PATH"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unzstd PATH"),
    (0, b"\x04\x22\x4d\x18", "compressed (lz4)", "unlz4 PATH"),
    (0, b"PK\x03\x04", "a ZIP archive", "unzip PATH"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x PATH"),
)

_COMPRESSED_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|\?xml|head|body)\b", re.IGNORECASE)
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_GIT_ANNEX = re.compile(rb"(\.\./)*(\.git/annex/objects|/annex/objects)/")

CONVERT = "qemu-img convert -O qcow2 PATH PATH.qcow2"
DOWNLOAD = "download it again; what came was a page of the server's"


@dataclass(frozen=True, kw_only=True, slots=True)
class NotBootable:
    """What a file is instead, in words, and what to do."""

    what: str
    hint: str


def disk_format(disk: Path) -> str:
    """Return `qcow2` or `raw`; UsageError, naming what it is, for a disk that is neither."""
    head, tail = _ends(disk)
    if (found := _nothing_to_boot(head) or _foreign(head)) is not None:
        raise _refusal("disk", disk, found)
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if tail.startswith(b"conectix"):  # of a fixed size: the disk, then a footer
        raise _refusal("disk", disk, NotBootable(what="a VHD image", hint=CONVERT))
    if tail.startswith(b"koly"):
        raise _refusal("disk", disk, NotBootable(what="a DMG image", hint=CONVERT))
    return "raw"


def check_kernel(kernel: Path) -> None:
    """Raise UsageError for a file that is no kernel for certain: empty, compressed, a page, a disk."""
    head, _ = _ends(kernel)
    if (found := _nothing_to_boot(head) or _foreign(head)) is not None:
        raise _refusal("kernel", kernel, found)


def check_initrd(initrd: Path) -> None:
    """Raise UsageError for a file that is no initial RAM disk for certain; one may be compressed."""
    head, _ = _ends(initrd)
    if (found := _nothing_to_boot(head)) is not None:
        raise _refusal("initrd", initrd, found)


def _ends(path: Path) -> tuple[bytes, bytes]:
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            return head, stream.read(TAIL_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {shlex.quote(str(path))}") from error


def _nothing_to_boot(head: bytes) -> NotBootable | None:
    """Return what no boot file of any kind looks like."""
    if not head:
        return NotBootable(what="empty", hint="copy or download it again")
    if _WEB_PAGE.match(head):
        return NotBootable(what="a web page (HTML or XML)", hint=DOWNLOAD)
    if head.startswith(_GIT_LFS):
        return NotBootable(what="a git-lfs pointer, not the file itself", hint="git lfs pull")
    if _GIT_ANNEX.match(head):
        return NotBootable(what="a git-annex pointer, not the file itself", hint="git annex get PATH")
    return None


def _foreign(head: bytes) -> NotBootable | None:
    for offset, signature, what, remedy in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return NotBootable(what=what, hint=CONVERT if remedy == "convert" else remedy)
    if _COMPRESSED_BZIP2.match(head):
        return NotBootable(what="compressed (bzip2)", hint="bunzip2 -k PATH")
    return None


def _refusal(role: str, path: Path, found: NotBootable) -> UsageError:
    wanted = {"disk": "qcow2 or raw", "kernel": "a Linux kernel (bzImage)", "initrd": "an initial RAM disk"}[role]
    message = f"{role} of the image is {found.what}, not {wanted}: {path}"
    return UsageError(message, hint=found.hint.replace("PATH", shlex.quote(str(path))))
