"""Builds a guest image: Debian packages by mmdebstrap, put together by the recipe's script in a build root.

Nothing of the host but mmdebstrap takes part: compiler, mksquashfs and depmod are those of the guest's own release,
so any distribution with mmdebstrap can build. Packages are unpacked, not installed (mmdebstrap's `extract` variant):
their maintainer scripts would take longer than all the rest, and what little they do the script does.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vpctl.errors import HostError, UsageError, VpctlError
from vpctl.image.mirror import apt_options, given_mirror, host_mirror
from vpctl.image.recipe import Recipe, load_recipe, recipe_key, source_files, source_hashes
from vpctl.image.store import MANIFEST, GuestImage, damage, digest, image_directory, load_image
from vpctl.log import Log, Step
from vpctl.process import ToolError, find_tool, run, running
from vpctl.rundir import cache_directory, check_cache, write_json
from vpctl.wait import until

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OUTPUTS = ("vmlinuz", "initrd.img", "root.squashfs", "vpctl-agent")
BUILD_TIMEOUT = 1800.0
LOCK_TIMEOUT = 1800.0
MMDEBSTRAP_GRACE = 30.0
CACHE_BYTES = 500 << 20
TEMPORARY_BYTES = 1200 << 20
_BUILD_PREFIX = ".build-"
_TEMPORARIES = "temporaries"
_FETCH = re.compile(r"Get:(\d+) \S+ \S+ \S+ (\S+) \S+ (\S+) \[(.*)\]")
_TEMPDIR = re.compile(r"I: using (.+/mmdebstrap\.\w+) as tempdir")


class ImageBuildError(HostError):
    """The image could not be built; the message carries the tool's own words."""


async def ensure(
    name: str = "micro", *, cache: Path, mirror: str | None = None, log: Log, sources: Path | None = None
) -> GuestImage:
    """Return the image of today's recipe and sources; build it if it is not in the cache (and only then)."""
    recipe = load_recipe(name, sources)
    image = await _find(image_directory(cache, name, recipe_key(recipe)), log)
    return image or await _build_locked(recipe, cache, mirror, log, force=False)


async def build(
    name: str = "micro",
    *,
    cache: Path,
    mirror: str | None = None,
    log: Log,
    force: bool = False,
    sources: Path | None = None,
) -> GuestImage:
    """Build an image; with `force` also where the cache has it (fresh packages for the same recipe)."""
    return await _build_locked(load_recipe(name, sources), cache, mirror, log, force=force)


async def _build_locked(recipe: Recipe, cache: Path, mirror: str | None, log: Log, *, force: bool) -> GuestImage:
    with _disk_errors(cache):
        cache_directory(cache)
        check_cache(cache)
        directory = image_directory(cache, recipe.name, recipe_key(recipe))
        async with _builder_lock(cache, log):
            # Whoever held the lock before may have built just this.
            image = None if force else await _find(directory, log)
            if image is None:
                image = await _build(recipe, directory, mirror, log)
    return image


async def _find(directory: Path, log: Log) -> GuestImage | None:
    """Return the image in a directory if it is whole; None, and a warning, if it is not what was built."""
    check_cache(directory.parent, directory)
    image = load_image(directory)
    if image is None:
        return None
    damaged = await asyncio.to_thread(damage, image)
    if damaged is None:
        return image
    log.warning(f"image `{image.name}` {image.key}: {damaged}; it is built again")
    return None


@asynccontextmanager
async def _builder_lock(cache: Path, log: Log) -> AsyncIterator[None]:
    """Let one builder at a time into the cache; a second one waits."""
    fd = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def try_lock() -> bool | None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return True

    try:
        if await try_lock() is None:
            with log.step("wait for another image build"):
                await until(try_lock, timeout=LOCK_TIMEOUT, every=0.2, what="end of another image build")
        await _remove_leftovers(cache)
        yield
    finally:
        os.close(fd)


async def _build(recipe: Recipe, directory: Path, mirror: str | None, log: Log) -> GuestImage:
    _check_host(directory.parent)
    started = time.monotonic()
    with log.step(f"build image `{recipe.name}` (Debian {recipe.release})"):
        async with _workshop(directory.parent) as workshop:
            bootstrap = await _prepare(recipe, workshop, mirror)
            with log.step("fetch the guest's packages") as step:
                await _fetch_guest(bootstrap, step)
            with log.step("fetch the tools and put the image together") as step:
                await _assemble(bootstrap, step)
            result = workshop / "result"
            write_json(result / MANIFEST, _manifest(recipe, workshop, time.monotonic() - started))
            _publish(result, directory)
    image = load_image(directory)
    if image is None:
        raise ImageBuildError(f"the image in {directory} is not whole", hint="vpctl image build --force")
    return image


def _check_host(cache: Path) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise HostError(f"guest images are for x86-64 and this host is {platform.machine()}")
    tools = {"mmdebstrap": "mmdebstrap", "apt-get": "apt", "setpriv": "util-linux"}
    if os.geteuid() != 0:
        tools["newuidmap"] = "uidmap"
    if lacking := [tool for tool, package in tools.items() if not _is_there(tool, package)]:
        raise HostError(
            f"the guest image cannot be built without {' and '.join(f'`{tool}`' for tool in lacking)}",
            hint=f"apt install {' '.join(tools[tool] for tool in lacking)}",
        )
    if not KEYRING.exists():
        raise HostError(f"Debian's archive keys are missing: {KEYRING}", hint="apt install debian-archive-keyring")
    temporary = Path(tempfile.gettempdir())
    _check_programs_run_in(temporary)
    for place, needed in ((cache, CACHE_BYTES), (temporary, TEMPORARY_BYTES)):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise HostError(
                f"{place} has {free >> 20} MiB free, and an image build needs {needed >> 20} MiB",
                hint="free some space, or set VPCTL_CACHE_DIR (the image) and TMPDIR (the build)",
            )


def _check_programs_run_in(place: Path) -> None:
    """Raise HostError if a file system is mounted so that no program of it runs: the build root's have to."""
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        raise HostError(
            f"{place} is mounted `noexec`: the guest image cannot be built there, since the build runs programs",
            hint="TMPDIR=DIRECTORY chooses another place, for instance TMPDIR=/var/tmp",
        )


def _is_there(tool: str, package: str) -> bool:
    try:
        find_tool(tool, package=package)
    except HostError:
        return False
    return True


@asynccontextmanager
async def _workshop(cache: Path) -> AsyncIterator[Path]:
    """Yield a directory beside the images, on the same file system; it is gone afterwards, whatever happens."""
    workshop = Path(tempfile.mkdtemp(prefix=_BUILD_PREFIX, dir=cache))
    try:
        (workshop / "result").mkdir()
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


async def _remove_leftovers(cache: Path) -> None:
    """Remove what killed builds left, here and where mmdebstrap worked. Called under the builder's lock."""
    for workshop in _leftovers(cache):
        for path in _temporaries(workshop):
            await _remove_temporary(path)
        shutil.rmtree(workshop, ignore_errors=True)


def _leftovers(cache: Path) -> list[Path]:
    return list(cache.glob(f"{_BUILD_PREFIX}*"))


def _temporaries(workshop: Path) -> list[Path]:
    """Return the directories that a killed mmdebstrap worked in, as far as they are still there."""
    try:
        paths = [Path(path) for path in (workshop / _TEMPORARIES).read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    return [path for path in paths if path.name.startswith("mmdebstrap.") and path.is_dir() and not path.is_symlink()]


async def _remove_temporary(path: Path) -> None:
    """Remove a root that mmdebstrap could not: its files may belong to the user's subordinate ids."""
    remove = ["rm", "-rf", "--one-file-system", "--", str(path)]
    if os.geteuid() != 0:
        remove = [find_tool("mmdebstrap"), "--unshare-helper", *remove]
    await run(remove, timeout=60, check=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bootstrap:
    """What both runs of mmdebstrap have in common."""

    recipe: Recipe
    workshop: Path
    archives: tuple[str, ...]

    def argv(self, packages: tuple[str, ...], target: str, *options: str) -> list[str]:
        return [
            find_tool("setpriv", package="util-linux"),
            "--pdeathsig=TERM",  # if we are killed outright, it still ends, and cleans up
            find_tool("mmdebstrap"),
            "--verbose",
            "--variant=extract",
            f"--architectures={self.recipe.architecture}",
            f"--aptopt={self.workshop / 'apt.conf'}",
            # One /usr, as every Debian has it; unpacked packages alone would make /bin and /usr/bin two.
            '--setup-hook=cd "$1" && mkdir -p dev proc sys usr/bin usr/sbin usr/lib usr/lib64 && '
            "ln -s usr/bin usr/sbin usr/lib usr/lib64 .",
            *options,
            f"--include={','.join(packages)}",
            self.recipe.release,
            target,
            *self.archives,
        ]


async def _prepare(recipe: Recipe, workshop: Path, mirror: str | None) -> _Bootstrap:
    """Lay out what the build root gets: sources, settings, apt's options."""
    for path in source_files(recipe):
        copy = workshop / "vpctl/images" / path.relative_to(recipe.sources)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (workshop / "vpctl/settings").write_text(recipe.settings(), encoding="utf-8")
    _, dump = await run([find_tool("apt-config", package="apt"), "dump"], timeout=30)
    (workshop / "apt.conf").write_text('Acquire::Languages "none";\n' + apt_options(dump), encoding="utf-8")
    chosen = given_mirror(mirror) if mirror else host_mirror()
    archives = tuple(chosen.lines(recipe.release, KEYRING, recipe.suites())) if chosen else ()
    return _Bootstrap(recipe=recipe, workshop=workshop, archives=archives)


async def _fetch_guest(bootstrap: _Bootstrap, step: Step) -> None:
    workshop = bootstrap.workshop
    await _mmdebstrap(
        bootstrap.argv(
            bootstrap.recipe.guest_packages,
            str(workshop / "guest.tar"),
            "--format=tar",
            "--skip=output/dev",  # no user may make device nodes again, and the guest has devtmpfs
            '--extract-hook=cd "$1" && for deb in $MMDEBSTRAP_ESSENTIAL; do echo "package: $(basename "$deb")"; done',
        ),
        workshop,
        step,
    )


async def _assemble(bootstrap: _Bootstrap, step: Step) -> None:
    workshop = bootstrap.workshop

    def at(path: str) -> str:  # a hook is split as a shell splits a command
        return shlex.quote(str(workshop / path))

    hooks = [
        'mkdir -p "$1/vpctl/guest"',
        f"copy-in {at('vpctl/images')} {at('vpctl/settings')} /vpctl",
        f"tar-in {at('guest.tar')} /vpctl/guest",
        'chroot "$1" sh /vpctl/images/' + f"{bootstrap.recipe.base}/assemble.sh",
        *(f"download /vpctl/out/{name} {at(f'result/{name}')}" for name in OUTPUTS),
        f"download /vpctl/out/kernel-release {at('kernel-release')}",
    ]
    options = ["--format=null", *(f"--extract-hook={hook}" for hook in hooks)]
    await _mmdebstrap(bootstrap.argv(bootstrap.recipe.tools_packages, "-", *options), workshop, step)


async def _mmdebstrap(argv: list[str], workshop: Path, step: Step) -> None:
    lines: list[str] = []
    async with asyncio.timeout(BUILD_TIMEOUT), running(argv, grace=MMDEBSTRAP_GRACE, env=_environment()) as process:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            _note(line, workshop, step)
        status = await process.wait()
    if status != 0:
        raise _explain(ToolError(["mmdebstrap", *argv[3:]], status, "\n".join(lines)))


def _environment() -> dict[str, str]:
    keep = {"path", "home", "user", "logname", "tmpdir", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy"}
    kept = {name: value for name, value in os.environ.items() if name.lower() in keep}
    kept["PATH"] = f"{kept.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**kept, "LC_ALL": "C.UTF-8"}


def _note(line: str, workshop: Path, step: Step) -> None:
    """Show a line of mmdebstrap's as progress, and keep what it says about itself."""
    if match := _TEMPDIR.match(line):
        with (workshop / _TEMPORARIES).open("a", encoding="utf-8") as stream:
            stream.write(f"{match[1]}\n")
    elif line.startswith("package: "):
        with (workshop / "packages").open("a", encoding="utf-8") as stream:
            stream.write(f"{line.removeprefix('package: ')}\n")
    elif match := _FETCH.match(line):
        step.update(f"package {match[1]}: {match[2]} {match[3]} ({match[4]})")
    elif line.startswith("step: "):
        step.update(line.removeprefix("step: "))
    elif line.startswith("I: ") and line.endswith("...") and "tempdir" not in line:
        step.update(line.removeprefix("I: ").removesuffix("..."))


def _explain(error: ToolError) -> VpctlError:
    """Turn the end of a failed mmdebstrap into an error whose hint fits."""
    output = error.output
    telling = [line for line in output.splitlines() if not line.startswith(("I: ", "W: ", "Get:"))][-5:]
    message = "the image build failed: " + ("; ".join(telling) or error.message)
    if "No space left on device" in output:
        return HostError("the disk is full: no space left for the image build", hint="df; VPCTL_CACHE_DIR, TMPDIR")
    if re.search(r"newuidmap|user namespace|unshare.*not permitted", output, re.IGNORECASE):
        return ImageBuildError(message, hint="allow unprivileged user namespaces, or build as root")
    if re.search(r"Temporary failure resolving|Could not connect|Unable to connect|Connection failed", output):
        return ImageBuildError(message, hint="is the mirror reachable? VPCTL_DEBIAN_MIRROR=URL chooses another")
    return ImageBuildError(message, hint=error.hint)


def _manifest(recipe: Recipe, workshop: Path, seconds: float) -> dict[str, object]:
    result = workshop / "result"
    return {
        "schema_version": 1,
        "name": recipe.name,
        "key": recipe_key(recipe),
        "release": recipe.release,
        "kernel": (workshop / "kernel-release").read_text(encoding="utf-8").strip(),
        "kernel_args": " ".join(recipe.kernel_args),
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "build_seconds": round(seconds, 1),
        "packages": _packages((workshop / "packages").read_text(encoding="utf-8").split()),
        "inputs": source_hashes(recipe),
        "sizes": {name: (result / name).stat().st_size for name in OUTPUTS},
        "sha256": {name: digest(result / name) for name in OUTPUTS},
    }


def _packages(files: list[str]) -> dict[str, str]:
    """Map package to version, from the names of the package files (where a colon is written %3a)."""
    names = (name.removesuffix(".deb").split("_") for name in files)
    return {parts[0]: parts[1].replace("%3a", ":") for parts in sorted(names)}


def _publish(result: Path, directory: Path) -> None:
    """Put a finished image in its place in one step; nobody ever sees half of it."""
    for path in result.iterdir():
        path.chmod(0o755 if path.name == "vpctl-agent" else 0o644)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    result.chmod(0o755)
    if directory.exists():
        _move_away(directory)
    result.rename(directory)


def _move_away(directory: Path) -> None:
    """Make room for a rebuilt image; one that guests run from stays."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    except BlockingIOError as error:
        raise UsageError(f"image {directory.name} is in use by a running topology", hint="vpctl down") from error
    finally:
        os.close(fd)


@contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(f"{cache}: the disk is full", hint="df; VPCTL_CACHE_DIR chooses another place") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise HostError(f"{cache}: {error.strerror}", hint="VPCTL_CACHE_DIR chooses another place") from error
        raise
