"""The cache of images: listing, holding, removing, and the user's own boot files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.reading import bytes_read
from vpctl.errors import HostError, NotFoundError, UsageError
from vpctl.image import GuestImage, hold, installed, own, remove
from vpctl.image.store import VERIFIED, damage, digest, load_image


def put_image(cache: Path, key: str, *, name: str = "micro", built: str = "2026-01-01T00:00:00+00:00") -> GuestImage:
    directory = cache / f"{name}-{key}"
    directory.mkdir(parents=True)
    for file in ("vmlinuz", "initrd.img", "root.squashfs", "vpctl-agent"):
        (directory / file).write_text(file)
    manifest = {"name": name, "key": key, "kernel_args": "quiet", "built": built}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    image = load_image(directory)
    assert image is not None
    return image


def test_images_are_listed_newest_first_and_anything_else_is_passed_over(tmp_path: Path) -> None:
    old = put_image(tmp_path, "a1")
    new = put_image(tmp_path, "b2", built="2026-02-01T00:00:00+00:00")
    (put_image(tmp_path, "c3").directory / "vmlinuz").unlink()
    (put_image(tmp_path, "d4").directory / "manifest.json").write_text("{")
    (tmp_path / ".build-x").mkdir()
    (tmp_path / ".lock").touch()
    assert installed(tmp_path) == [new, old]
    assert installed(tmp_path / "missing") == []


def with_digests(image: GuestImage) -> GuestImage:
    """Write down what its files are, as the builder does."""
    names = ("vmlinuz", "initrd.img", "root.squashfs", "vpctl-agent")
    manifest = {**image.manifest, "sha256": {name: digest(image.directory / name) for name in names}}
    (image.directory / "manifest.json").write_text(json.dumps(manifest))
    written = load_image(image.directory)
    assert written is not None
    return written


def test_an_image_that_is_what_was_built_is_read_once_and_not_at_each_start(tmp_path: Path) -> None:
    image = put_image(tmp_path, "a1")
    image.kernel.write_bytes(b"k" * (4 << 20))
    image = with_digests(image)
    with bytes_read() as count:
        assert damage(image) is None
        assert count() > 4 << 20
    with bytes_read() as count:
        assert damage(image) is None
        assert count() < 100_000


def test_it_is_read_again_after_a_boot_of_the_host(tmp_path: Path) -> None:
    image = with_digests(put_image(tmp_path, "a1"))
    assert damage(image) is None
    note = image.directory / VERIFIED
    seen = json.loads(note.read_text())
    note.write_text(json.dumps({**seen, "boot_id": "an earlier one"}))
    assert damage(image) is None
    assert json.loads(note.read_text()) == seen


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img", "root.squashfs", "vpctl-agent"])
def test_each_file_that_is_not_what_was_built_is_named(tmp_path: Path, name: str) -> None:
    image = with_digests(put_image(tmp_path, "a1"))
    assert damage(image) is None
    path = image.directory / name
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])  # as long as it was
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (damage(image) or "").startswith(f"{name} in ")
    path.unlink()
    assert "No such file" in (damage(image) or "")


def test_an_image_of_a_builder_that_kept_no_digests_is_taken_as_it_is(tmp_path: Path) -> None:
    assert damage(put_image(tmp_path, "a1")) is None


def test_an_image_in_use_is_not_removed_and_nor_are_its_neighbours(tmp_path: Path) -> None:
    used, other = put_image(tmp_path, "a1"), put_image(tmp_path, "b2")
    fd = hold(used)
    try:
        with pytest.raises(UsageError, match="in use"):
            remove(tmp_path, "micro")
        assert set(installed(tmp_path)) == {used, other}
        assert remove(tmp_path, "b2") == [other]
    finally:
        os.close(fd)
    assert remove(tmp_path, "micro") == [used]
    assert list(tmp_path.iterdir()) == []


def test_several_topologies_hold_one_image_until_the_last_lets_go(tmp_path: Path) -> None:
    image = put_image(tmp_path, "a1")
    first, second = hold(image), hold(image)
    os.close(first)
    with pytest.raises(UsageError):
        remove(tmp_path, "a1")
    os.close(second)
    assert remove(tmp_path, "a1") == [image]


def test_an_image_that_was_removed_cannot_be_held(tmp_path: Path) -> None:
    image = put_image(tmp_path, "a1")
    remove(tmp_path, "a1")
    with pytest.raises(HostError, match="gone"):
        hold(image)


@pytest.mark.parametrize("word", ["zz", "", "..", "mic"])
def test_a_word_that_matches_no_image_removes_nothing(tmp_path: Path, word: str) -> None:
    image = put_image(tmp_path, "a1")
    with pytest.raises(NotFoundError):
        remove(tmp_path, word)
    assert installed(tmp_path) == [image]


def test_own_boot_files_are_taken_as_they_are(tmp_path: Path) -> None:
    kernel, disk = tmp_path / "bzImage", tmp_path / "disk.qcow2"
    kernel.write_bytes(b"MZ")
    disk.write_bytes(b"QFI\xfb")
    image = own(kernel, disk=disk)
    assert (image.kernel, image.initrd, image.disk, image.kernel_args) == (kernel, None, disk, "")


@pytest.mark.parametrize("role", ["kernel", "initrd", "disk"])
def test_a_missing_boot_file_is_named_with_its_role(tmp_path: Path, role: str) -> None:
    paths = {name: tmp_path / name for name in ("kernel", "initrd", "disk")}
    for path in paths.values():
        path.touch()
    paths[role].unlink()
    with pytest.raises(UsageError, match=f"{role} of the image does not exist: {paths[role]}"):
        own(paths["kernel"], paths["initrd"], paths["disk"])
