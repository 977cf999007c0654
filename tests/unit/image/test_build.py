"""The builder, with a mmdebstrap that is a few lines of shell: what it leaves behind, whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpctl.errors import HostError, VpctlError
from vpctl.image import ImageBuildError, build, ensure, hold, image_key, installed
from vpctl.image.build import KEYRING
from vpctl.log import Log, Silent
from vpctl.wait import until

pytestmark = pytest.mark.skipif(
    not KEYRING.exists(), reason=f"{KEYRING} is missing (apt install debian-archive-keyring)"
)

FAKE = r"""#!/bin/sh
echo run >>"$FAKE_DIR/runs"
echo "I: using $FAKE_DIR/mmdebstrap.$$ as tempdir"
mkdir -p "$FAKE_DIR/mmdebstrap.$$"
echo "Get:1 http://mirror.test/debian bookworm/main amd64 hello amd64 1.0-1 [12 kB]"
echo "package: hello_1%3a1.0-1_amd64.deb"
case $FAKE_MODE in
full) echo "tar: vmlinuz: Cannot write: No space left on device"; exit 1 ;;
fail) echo "I: working"; echo "E: Unable to locate package hello"; exit 100 ;;
hang) touch "$FAKE_DIR/hangs"; exec sleep 60 ;;
slow) sleep 0.4 ;;
esac
for word; do
	case $word in
	--extract-hook=download*) eval "set -- $word"; echo "$2" >"$3" ;;
	*.tar) : >"$word" ;;
	esac
done
rmdir "$FAKE_DIR/mmdebstrap.$$"
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put our mmdebstrap before the real one; yields the directory where it notes its runs."""
    tools, notes = tmp_path / "bin", tmp_path / "notes"
    tools.mkdir()
    notes.mkdir()
    (tools / "mmdebstrap").write_text(FAKE)
    (tools / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    set_mode(tools, "")
    yield tools
    monkeypatch.undo()


def set_mode(tools: Path, mode: str) -> None:
    """The builder passes no foreign variables on, so the fake has its own written into it."""
    notes = tools.parent / "notes"
    (tools / "mmdebstrap").write_text(FAKE.replace("#!/bin/sh", f"#!/bin/sh\nFAKE_DIR={notes} FAKE_MODE={mode}"))


def runs(tools: Path) -> int:
    path = tools.parent / "notes/runs"
    return len(path.read_text().split()) if path.exists() else 0


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


async def test_an_image_is_built_once_and_then_only_found(fake: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = await ensure(cache=cache, log=Silent())
    assert runs(fake) == 2
    assert left_in(cache) == [f"micro-{image_key()}"]
    assert [path.name for path in sorted(image.directory.iterdir())] == [
        "initrd.img", "manifest.json", "root.squashfs", "vmlinuz", "vpctl-agent",
    ]  # fmt: skip
    assert image.manifest["packages"] == {"hello": "1:1.0-1"}
    assert stat.S_IMODE(image.agent.stat().st_mode) == 0o755
    assert installed(cache) == [image]
    assert await ensure(cache=cache, log=Silent()) == image
    assert runs(fake) == 2


async def test_a_found_image_needs_no_tool_no_network_and_no_writable_cache(fake: Path, tmp_path: Path) -> None:
    image = await ensure(cache=tmp_path / "cache", log=Silent())
    (fake / "mmdebstrap").unlink()
    (tmp_path / "cache").chmod(0o500)
    try:
        assert await ensure(cache=tmp_path / "cache", log=Silent()) == image
    finally:
        (tmp_path / "cache").chmod(0o700)


async def test_a_cache_whose_path_has_blanks_and_quotes_is_built_in(fake: Path, tmp_path: Path) -> None:
    cache = tmp_path / "my cache's $place"
    image = await ensure(cache=cache, log=Silent())
    assert image.directory.parent == cache
    assert left_in(cache) == [image.directory.name]


async def test_a_damaged_image_is_said_and_built_again(fake: Path, tmp_path: Path) -> None:
    image = await ensure(cache=tmp_path / "cache", log=Silent())
    assert image.disk is not None
    image.disk.write_text("cut")
    text = tmp_path / "log"
    with text.open("w") as stream:
        await ensure(cache=tmp_path / "cache", log=Log(stream))
    assert runs(fake) == 4
    assert image.disk.read_text() != "cut"
    assert "root.squashfs" in text.read_text()
    assert await ensure(cache=tmp_path / "cache", log=Silent())
    assert runs(fake) == 4


@pytest.mark.parametrize("which", ["cache", "image", "file"])
async def test_a_cache_that_others_may_write_to_is_refused(fake: Path, tmp_path: Path, which: str) -> None:
    cache = tmp_path / "cache"
    image = await ensure(cache=cache, log=Silent())
    place = {"cache": cache, "image": image.directory, "file": image.kernel}[which]
    place.chmod(place.stat().st_mode | 0o020)
    with pytest.raises(HostError, match="can be changed by other users") as caught:
        await ensure(cache=cache, log=Silent())
    assert caught.value.hint is not None
    assert f"chmod go-w {place}" in caught.value.hint
    place.chmod(place.stat().st_mode & ~0o020)
    assert await ensure(cache=cache, log=Silent()) == image


async def test_what_is_built_under_any_umask_is_trusted_afterwards(fake: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        image = await ensure(cache=tmp_path / "far/away/cache", log=Silent())
        assert await ensure(cache=tmp_path / "far/away/cache", log=Silent()) == image
    finally:
        os.umask(before)
    assert runs(fake) == 2


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A directory from which the kernel runs nothing."""
    place = tmp_path / "noexec"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=64k", "vpctl-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_temporary_directory_from_which_nothing_runs_is_named_before_the_build(
    fake: Path, tmp_path: Path, noexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(noexec))
    with pytest.raises(HostError, match=f"{noexec} is mounted `noexec`") as caught:
        await ensure(cache=tmp_path / "cache", log=Silent())
    assert "TMPDIR=" in (caught.value.hint or "")
    assert runs(fake) == 0


async def test_force_builds_again_but_never_under_a_running_guest(fake: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = await ensure(cache=cache, log=Silent())
    await build(cache=cache, log=Silent(), force=True)
    assert runs(fake) == 4
    fd = hold(image)
    try:
        with pytest.raises(VpctlError, match="in use"):
            await build(cache=cache, log=Silent(), force=True)
    finally:
        os.close(fd)
    assert left_in(cache) == [image.directory.name]
    assert installed(cache)


async def test_a_second_builder_waits_and_finds_the_image_done(fake: Path, tmp_path: Path) -> None:
    set_mode(fake, "slow")
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(ensure(cache=tmp_path / "cache", log=Silent())) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert runs(fake) == 2


async def test_progress_names_packages(fake: Path, tmp_path: Path) -> None:
    text = tmp_path / "log"
    with text.open("w") as stream:
        await ensure(cache=tmp_path / "cache", log=Log(stream, verbosity=1))
    assert "package 1: hello 1.0-1 (12 kB)" in text.read_text()


async def test_a_failed_build_says_why_and_leaves_nothing(fake: Path, tmp_path: Path) -> None:
    set_mode(fake, "fail")
    with pytest.raises(ImageBuildError, match="Unable to locate package hello"):
        await ensure(cache=tmp_path / "cache", log=Silent())
    assert left_in(tmp_path / "cache") == []


async def test_a_disk_that_fills_up_is_named_and_nothing_is_left(fake: Path, tmp_path: Path) -> None:
    set_mode(fake, "full")
    with pytest.raises(HostError, match="disk is full"):
        await ensure(cache=tmp_path / "cache", log=Silent())
    assert left_in(tmp_path / "cache") == []


async def test_a_cache_that_cannot_be_made_is_named(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file/cache"):
        await ensure(cache=tmp_path / "file/cache", log=Silent())


async def test_all_tools_that_a_build_lacks_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # /usr/sbin is looked into too, and has none of them
    with pytest.raises(HostError, match="image cannot be built without `mmdebstrap` and `apt-get`") as caught:
        await ensure(cache=tmp_path / "cache", log=Silent())
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("apt install mmdebstrap apt")


async def test_an_interrupted_build_leaves_nothing(fake: Path, tmp_path: Path) -> None:
    set_mode(fake, "hang")
    task = asyncio.create_task(ensure(cache=tmp_path / "cache", log=Silent()))
    await until(lambda: seen(tmp_path / "notes/hangs"), timeout=10, what="the build")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(tmp_path / "cache") == []


async def seen(path: Path) -> bool | None:
    return is_there(path) or None


def is_there(path: Path) -> bool:
    return path.exists()


async def test_what_a_killed_builder_left_goes_at_the_next_build(fake: Path, tmp_path: Path) -> None:
    set_mode(fake, "hang")
    script = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from vpctl.image import ensure\nfrom vpctl.log import Silent\n"
        "asyncio.run(ensure(cache=Path(sys.argv[1]), log=Silent()))"
    )
    cache = tmp_path / "cache"
    builder = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cache, cwd=Path(__file__).parents[3])
    await until(lambda: seen(tmp_path / "notes/hangs"), timeout=10, what="the build")
    builder.send_signal(signal.SIGKILL)
    await builder.wait()
    [workshop] = left_in(cache)
    [temporary] = (tmp_path / "notes").glob("mmdebstrap.*")
    set_mode(fake, "")
    image = await ensure(cache=cache, log=Silent())
    assert left_in(cache) == [image.directory.name]
    assert not temporary.exists()
    assert not (cache / workshop).exists()


async def test_the_manifest_holds_no_addresses(fake: Path, tmp_path: Path) -> None:
    image = await ensure(cache=tmp_path / "cache", log=Silent(), mirror="http://user:secret@mirror.test/debian")
    text = json.dumps(dict(image.manifest))
    assert "secret" not in text
    assert "mirror.test" not in text
