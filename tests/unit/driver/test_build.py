"""The driver against what a kernel maintainer would run: checkpatch, W=1 and sparse, for each of its kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.driver.conftest import DRIVER
from vpctl.image.build import KEYRING
from vpctl.image.mirror import given_mirror, host_mirror
from vpctl.process import run

SOURCES = sorted([*DRIVER.rglob("*.[ch]"), DRIVER / "Kbuild", DRIVER / "Makefile"])


def kernel_script(name: str) -> Path | None:
    """Find a script: beside $VPCTL_CHECKPATCH, or in the kernel sources or headers of this host."""
    given = os.environ.get("VPCTL_CHECKPATCH")
    places = [Path(given).with_name(name)] if given else []
    places += [*Path("/usr/src").glob(f"linux*/scripts/{name}")]
    places += [*Path("/lib/modules").glob(f"*/source/scripts/{name}")]
    return next((place for place in places if place.is_file()), None)


def test_checkpatch_has_nothing_to_say() -> None:
    script = kernel_script("checkpatch.pl")
    if script is None or shutil.which("perl") is None:
        pytest.skip("no checkpatch.pl: set VPCTL_CHECKPATCH, or unpack kernel sources in /usr/src")
    argv = ["perl", str(script), "--no-tree", "--strict", "--terse", "--show-types", "--no-summary"]
    # The one file that may know kernel versions.
    compat = ["--ignore", "LINUX_VERSION_CODE,CONSTANT_COMPARISON", "-f", str(DRIVER / "compat.h")]
    others = ["-f", *(str(path) for path in SOURCES if path.name != "compat.h")]
    for rest in (compat, others):
        done = subprocess.run([*argv, *rest], capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout == ""


def test_kernel_doc_has_nothing_to_say() -> None:
    script = kernel_script("kernel-doc")
    if script is None or shutil.which("perl") is None:
        pytest.skip("no kernel-doc: set VPCTL_CHECKPATCH, or unpack kernel sources in /usr/src")
    documented = [path for path in SOURCES if "/**" in path.read_text(encoding="ascii")]
    done = subprocess.run(
        [script, "-none", "-Werror", *documented], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_stay_short() -> None:
    for path in DRIVER.rglob("*.c"):
        start = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line == "{":
                start = number
            elif line == "}":
                assert number - start <= 60, f"{path.relative_to(DRIVER)}:{start}"


PREFIXES = {".": "vshm_", "shm": "ivd_", "vhost": "vhp_"}
"""Of each folder: what its names begin with."""
DEFINITIONS = (
    r"#define (\w+)",
    r"(?:struct|enum) (\w+) {",
    r"(?!typedef|extern)\w[\w *]* \*?([a-z]\w*)(?:\(|\[| =)",
    r"static (?:DEFINE_\w+|LIST_HEAD)\((\w+)",
)
"""Of what begins in a line's first column."""


def test_names_begin_with_the_prefix_of_their_folder() -> None:
    found, odd = set(), []
    for path in DRIVER.rglob("*.[ch]"):
        if path.name == "vpctl_fault.c":  # another module, with parameters
            continue
        text = path.read_text(encoding="ascii")
        names = {name for rule in DEFINITIONS for name in re.findall(f"^{rule}", text, re.MULTILINE)}
        prefix = PREFIXES[str(path.parent.relative_to(DRIVER))]
        odd += [f"{path.relative_to(DRIVER)}: {name}" for name in names if not name.lower().startswith(prefix)]
        found |= names
    assert odd == []
    # What each rule is there for.
    assert {"VSHM_CONTROL_H", "vshm_kind", "vshm_probe", "vshm_controls_lock", "ivd_xmit", "vhp_faults"} <= found


def test_no_kind_includes_a_file_of_the_other_nor_the_core_one_of_a_kind() -> None:
    own = {folder: {path.name for path in (DRIVER / folder).glob("*.h")} for folder in PREFIXES}
    for path in DRIVER.rglob("*.[ch]"):
        folder = str(path.parent.relative_to(DRIVER))
        included = set(re.findall(r'^#include "(.*)"', path.read_text(encoding="ascii"), re.MULTILINE)) - {"user.h"}
        assert included <= own["."] | own[folder], path


PACKAGES = (
    "gcc libc6-dev make dash bash coreutils findutils sed grep gawk perl libc-bin sparse linux-headers-cloud-amd64"
)
# Packages of newer kernels' headers lack the script that they run sparse by.
BUILD = """
set -e
mkdir -p "$1/tmp/bin"
ln -sf /usr/bin/gawk "$1/tmp/bin/awk"
mount --bind /proc "$1/proc"
for headers in $(cd "$1" && echo usr/src/linux-headers-*-cloud-amd64); do
    echo "headers: $headers"
    grep -q checker-valid "$1"/usr/src/*-common/Makefile && sparse=0 || sparse=2
    chroot "$1" env PATH=/tmp/bin:/usr/sbin:/usr/bin \\
        make -s -C /tmp/driver KERNEL="/$headers" W=1 C=$sparse
    ls "$1/tmp/driver/vpctl_ivshmem.ko" "$1/tmp/driver/vpctl_fault.ko"
done
umount "$1/proc"
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("suite", "oldest"), [("bookworm", (6, 1)), ("trixie", (6, 12)), ("trixie-backports", (6, 13))]
)
async def test_it_builds_without_a_warning_for_the_kernel_of(
    suite: str, oldest: tuple[int, int], tmp_path: Path
) -> None:
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        pytest.skip("needs mmdebstrap, and root for a look at /proc that objtool takes")
    given = os.environ.get("VPCTL_DEBIAN_MIRROR")
    mirror = given_mirror(given) if given else host_mirror()
    assert mirror is not None
    release = suite.removesuffix("-backports")
    archives = mirror.lines(release, KEYRING)
    packages = PACKAGES
    if suite != release:
        archives.append(archives[0].replace(f" {release} ", f" {suite} "))
        packages = packages.replace("cloud-amd64", f"cloud-amd64/{suite}")
    for path in SOURCES:
        copy = tmp_path / "driver" / path.relative_to(DRIVER)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "build").write_text(BUILD)
    argv = ["mmdebstrap", "--variant=extract", "--architectures=amd64", f"--include={','.join(packages.split())}"]
    argv += [
        '--setup-hook=cd "$1" && mkdir -p dev proc sys tmp usr/bin usr/sbin usr/lib usr/lib64 && '
        "ln -s usr/bin usr/sbin usr/lib usr/lib64 .",
        f"--extract-hook=copy-in {tmp_path / 'driver'} /tmp",
        f'--extract-hook=sh {tmp_path / "build"} "$1"',
        *("--format=null", release, "-", *archives),
    ]
    _, said = await run(argv, timeout=900)
    built = said[said.index("headers: ") :]
    ours = [line for line in built.splitlines() if line.startswith(("/tmp/driver", "make", "WARNING"))]
    assert ours == [], built
    assert "vpctl_ivshmem.ko" in built
    assert "vpctl_fault.ko" in built
    version = re.search(r"linux-headers-(\d+)\.(\d+)", built)
    assert version is not None
    assert (int(version[1]), int(version[2])) >= oldest
