"""Boot files that are something else are named as what they are; none of them is booted as raw."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from vpctl.errors import UsageError
from vpctl.image import own
from vpctl.image.files import check_initrd, check_kernel, disk_format

DISKS = {
    "a VMDK image": b"KDMV" + bytes(4096),
    "the descriptor of a VMDK image": b"# Disk DescriptorFile\nversion=1\n" + bytes(600),
    "a VHDX image": b"vhdxfile" + bytes(8192),
    "a VHD image": bytes(65024) + b"conectix" + bytes(504),
    "a VDI image": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + bytes(999),
    "a qcow image of version 1": b"QFI\xfb\x00\x00\x00\x01" + bytes(999),
    "a DMG image": bytes(4096) + b"koly" + bytes(508),
    "compressed (gzip)": gzip.compress(bytes(4096)),
    "compressed (xz)": lzma.compress(bytes(4096)),
    "compressed (bzip2)": bz2.compress(bytes(4096)),
    "compressed (zstd)": b"\x28\xb5\x2f\xfd" + bytes(99),
    "compressed (lz4)": b"\x04\x22\x4d\x18" + bytes(99),
    "a ZIP archive": b"PK\x03\x04" + bytes(99),
    "empty": b"",
    "a web page (HTML or XML)": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a git-lfs pointer, not the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "a git-annex pointer, not the file itself": b"/annex/objects/SHA256E-s5--0.img\n",
}


def file(directory: Path, content: bytes, name: str = "disk") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("what", DISKS)
def test_a_disk_that_is_neither_raw_nor_qcow2_is_named(tmp_path: Path, what: str) -> None:
    disk = file(tmp_path, DISKS[what])
    with pytest.raises(UsageError, match="disk of the image is") as caught:
        own(file(tmp_path, b"MZ", "kernel"), disk=disk)
    assert caught.value.message == f"disk of the image is {what}, not qcow2 or raw: {disk}"
    assert caught.value.hint is not None
    assert "PATH" not in caught.value.hint


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (b"QFI\xfb\x00\x00\x00\x03" + bytes(2000), "qcow2"),
        (b"QFI\xfb\x00\x00\x00\x02" + bytes(504) + b"conectix" + bytes(504), "qcow2"),
        (bytes(510) + b"\x55\xaa" + bytes(2000), "raw"),
        (b"hsqs" + bytes(2000), "raw"),
        (b"\x1f", "raw"),
    ],
)
def test_disks_that_boot_are_told_apart(tmp_path: Path, content: bytes, format_: str) -> None:
    assert disk_format(file(tmp_path, content)) == format_


@pytest.mark.parametrize("what", ["empty", "compressed (xz)", "a web page (HTML or XML)", "a VMDK image"])
def test_a_kernel_that_is_none_is_named(tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError, match="kernel of the image is"):
        check_kernel(file(tmp_path, DISKS[what], "kernel"))


def test_an_initrd_may_be_compressed_but_not_a_pointer(tmp_path: Path) -> None:
    check_initrd(file(tmp_path, DISKS["compressed (xz)"]))
    with pytest.raises(UsageError, match="initrd of the image is a git-lfs pointer") as caught:
        check_initrd(file(tmp_path, DISKS["a git-lfs pointer, not the file itself"]))
    assert caught.value.hint == "git lfs pull"


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        disk_format(tmp_path)
