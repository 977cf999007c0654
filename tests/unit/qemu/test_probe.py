"""What a QEMU can do is asked once, remembered until it changes, and a lack is named in full."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.qemu import DEVICES, calls, fake_qemu
from vpctl.errors import HostError
from vpctl.qemu.probe import find_qemu, lacks, parse_devices, parse_version, parse_words, probe, probe_for


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)", (7, 2, 22)),
        ("warning: something\nQEMU emulator version 10.0.2", (10, 0, 2)),
        ("QEMU emulator version 11.1", (11, 1, 0)),
        ("bash, version 5.2", None),
    ],
)
def test_reads_the_version(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


def test_reads_devices_and_lists_without_their_headings() -> None:
    text = 'Misc devices:\nname "pvpanic", bus ISA\nname "virtio-net-pci", bus PCI, alias "virtio-net"\n'
    assert parse_devices(text) == {"pvpanic", "virtio-net-pci"}
    assert parse_words("Available netdev backend types:\nstream\nvhost-user\n") == {"stream", "vhost-user"}


async def test_asks_once_and_remembers(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path)
    first = await probe(argv, cache=tmp_path / "cache")
    asked = len(calls(tmp_path))
    assert await probe(argv, cache=tmp_path / "cache") == first
    assert len(calls(tmp_path)) == asked
    await probe(argv, cache=tmp_path / "cache", fresh=True)
    assert len(calls(tmp_path)) == 2 * asked


async def test_asks_again_when_the_binary_was_replaced(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path)
    before = await probe(argv, cache=tmp_path / "cache")
    fake_qemu(tmp_path, version="QEMU emulator version 10.0.2")
    after = await probe(argv, cache=tmp_path / "cache")
    assert (before.version, after.version) == ((7, 2, 22), (10, 0, 2))
    assert before.identity != after.identity


@pytest.mark.parametrize("damage", ["", "[]", '{"argv": 1}', "{"])
async def test_asks_again_when_the_memory_of_it_is_damaged(tmp_path: Path, damage: str) -> None:
    argv = fake_qemu(tmp_path)
    first = await probe(argv, cache=tmp_path / "cache")
    (remembered,) = (tmp_path / "cache/qemu").iterdir()
    remembered.write_text(damage)
    assert await probe(argv, cache=tmp_path / "cache") == first


async def test_what_is_run_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path)
    first = await probe(argv, cache=tmp_path / "cache")
    (remembered,) = (tmp_path / "cache/qemu").iterdir()
    forged = {**json.loads(remembered.read_text()), "argv": ["/bin/sh", "-c", "touch /tmp/x"]}
    remembered.write_text(json.dumps(forged))
    assert (await probe(argv, cache=tmp_path / "cache")).argv == first.argv == tuple(argv)
    # Nor is what another QEMU can do.
    remembered.write_text(json.dumps({**forged, "identity": "another", "version": [99, 0, 0]}))
    assert await probe(argv, cache=tmp_path / "cache") == first


@pytest.mark.parametrize("which", ["", "qemu", "record"])
async def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, which: str) -> None:
    argv, cache = fake_qemu(tmp_path), tmp_path / "cache"
    await probe(argv, cache=cache)
    (remembered,) = (cache / "qemu").iterdir()
    place = remembered if which == "record" else cache / which
    place.chmod(0o777)
    with pytest.raises(HostError, match=f"{place} can be changed by other users") as caught:
        await probe(argv, cache=cache)
    assert "VPCTL_CACHE_DIR" in (caught.value.hint or "")


async def test_a_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    argv, cache = fake_qemu(tmp_path), tmp_path / "cache"
    await probe(argv, cache=cache)
    os.chown(cache, 12345, -1)
    with pytest.raises(HostError, match="belongs to another user"):
        await probe(argv, cache=cache)


async def test_does_without_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the directory should be")
    assert (await probe(fake_qemu(tmp_path / "q"), cache=blocked)).version == (7, 2, 22)


async def test_names_everything_that_is_lacking_at_once(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path, version="QEMU emulator version 6.2.0", devices=DEVICES[1:], netdevs=("stream",))
    with pytest.raises(HostError) as caught:
        await probe_for(argv, cache=tmp_path / "cache", devices=["ivshmem-doorbell"], netdevs=["dgram"])
    assert caught.value.message.endswith(
        "(QEMU 6.2.0) is too old: 7.2 or later is needed; lacks the device ivshmem-doorbell, virtio-blk-pci; "
        "lacks the network back-end dgram, user"
    )
    assert caught.value.hint is not None


async def test_looks_again_for_a_device_that_a_module_has_brought(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path)
    known = await probe(argv, cache=tmp_path / "cache")
    assert lacks(known, devices=["late"]) == ["lacks the device late"]
    # A module is a file of its own: the binary, and so the cache's key, stays as it was.
    (tmp_path / "modules").write_text('name "late", bus PCI\n')
    assert await probe(argv, cache=tmp_path / "cache") == known
    assert "late" in (await probe_for(argv, cache=tmp_path / "cache", devices=["late"])).devices


async def test_tells_a_build_without_seccomp(tmp_path: Path) -> None:
    assert (await probe(fake_qemu(tmp_path / "with"), cache=tmp_path)).sandbox
    assert not (await probe(fake_qemu(tmp_path / "without", sandbox=False), cache=tmp_path)).sandbox


@pytest.mark.parametrize(
    ("version", "message"),
    [("GNU bash 5.2", "is not QEMU"), ("x'; echo broken >&2; exit 3; echo '", "ended with exit code 3: broken")],
)
async def test_refuses_what_is_no_qemu(tmp_path: Path, version: str, message: str) -> None:
    argv = fake_qemu(tmp_path, version=version)
    with pytest.raises(HostError, match=message):
        await probe(argv, cache=tmp_path / "cache")


async def test_refuses_a_file_that_cannot_be_executed(tmp_path: Path) -> None:
    path = tmp_path / "qemu"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    with pytest.raises(HostError, match="cannot run QEMU"):
        await probe((str(path),), cache=tmp_path / "cache")


def test_a_vm_s_own_qemu_wins_over_the_environment_and_that_over_path(tmp_path: Path) -> None:
    in_path, override, own = (fake_qemu(tmp_path / name)[0] for name in ("path", "override", "own"))
    environ = {"PATH": str(tmp_path / "path"), "VPCTL_QEMU": override}
    assert find_qemu(own, environ) == (own,)
    assert find_qemu(None, environ) == (override,)
    assert find_qemu(None, {"PATH": str(tmp_path / "path")}) == (in_path,)


def test_a_command_with_a_loader_in_front_is_split(tmp_path: Path) -> None:
    (loader,) = fake_qemu(tmp_path, name="ld.so")
    environ = {"PATH": "", "VPCTL_QEMU": f"{loader} --library-path '/a b' /q/qemu -L /q/share"}
    assert find_qemu(None, environ) == (loader, "--library-path", "/a b", "/q/qemu", "-L", "/q/share")


def test_a_path_with_a_space_in_it_is_a_path(tmp_path: Path) -> None:
    (path,) = fake_qemu(tmp_path / "with space")
    assert find_qemu(path, {}) == (path,)


@pytest.mark.parametrize(
    ("wanted", "environ", "message"),
    [
        (None, {"PATH": "/nowhere"}, "`qemu-system-x86_64` (from PATH)"),
        (None, {"VPCTL_QEMU": "/no/qemu -L x"}, "`/no/qemu` (from VPCTL_QEMU)"),
        ("/no/own", {"VPCTL_QEMU": "/bin/sh"}, "`/no/own` (from `qemu:`)"),
        ("unclosed 'quote", {}, "cannot read the command"),
    ],
)
def test_a_missing_qemu_is_named_with_where_the_wish_came_from(
    wanted: str | None, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(HostError) as caught:
        find_qemu(wanted, environ)
    assert message in caught.value.message
    assert "apt install qemu-system-x86" in (caught.value.hint or "")


@pytest.mark.mandatory
async def test_real_qemu_has_what_every_vm_needs(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    info = await probe_for(find_qemu(None, {"PATH": "/usr/bin"}), cache=tmp_path, netdevs=["stream"])
    assert "tcg" in info.accelerators
    assert lacks(replace(info, version=(7, 1, 0))) == ["is too old: 7.2 or later is needed"]


def test_a_qemu_beside_path_is_found_and_what_it_lacks_is_said_of_it(tmp_path: Path) -> None:
    (kvm,) = fake_qemu(tmp_path / "libexec", name="qemu-kvm", netdevs=("stream",))
    nowhere = {"PATH": str(tmp_path / "empty")}
    assert find_qemu(None, nowhere, elsewhere=["/nowhere/qemu-kvm", kvm]) == (kvm,)
    with pytest.raises(HostError, match="no QEMU"):
        find_qemu("qemu-mine", nowhere, elsewhere=[kvm])  # one that is asked for is that one, or none


async def test_rhels_qemu_is_named_as_what_it_is(tmp_path: Path) -> None:
    argv = fake_qemu(tmp_path / "libexec", name="qemu-kvm", netdevs=("stream",))
    with pytest.raises(HostError, match="lacks the network back-end user") as caught:
        await probe_for(argv, cache=tmp_path / "cache")
    assert "RHEL" in (caught.value.hint or "")
