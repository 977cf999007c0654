"""What an image is made of: the recipe and the sources, and the key that stands for all of it."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpctl.errors import HostError, NotFoundError

FORMAT = 1
"""Counts up whenever the builder itself changes what it makes of the same sources."""

SHARED_SOURCES = ("agent", "driver")
"""Compiled into every image, so part of every key."""

_BUILT = frozenset({"vpctl-agent", "selftest"})
_BUILT_PATHS = frozenset({"micro/init/init"})
_BUILT_SUFFIXES = frozenset({".o", ".ko", ".mod", ".cmd", ".symvers"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe as `recipe.toml` says it, and where it lies; what it does not say, its base says."""

    name: str
    base: str
    sources: Path
    release: str
    architecture: str
    kernel_args: tuple[str, ...]
    guest_packages: tuple[str, ...]
    tools_packages: tuple[str, ...]
    remove: tuple[str, ...]
    modules: tuple[str, ...]
    boot_modules: tuple[str, ...]
    squashfs_options: tuple[str, ...]

    def suites(self) -> tuple[str, ...]:
        """Return the suites beside the release's own that packages come from."""
        packages = (*self.guest_packages, *self.tools_packages)
        return tuple(sorted({package.partition("/")[2] for package in packages} - {""}))

    def settings(self) -> str:
        """Return what `assemble.sh` reads: shell variables, whose patterns the shell expands there."""
        return "".join(
            f'{name}="{" ".join(values)}"\n'
            for name, values in (
                ("REMOVE", self.remove),
                ("KEEP_MODULES", self.modules),
                ("BOOT_MODULES", self.boot_modules),
                ("SQUASHFS_OPTIONS", self.squashfs_options),
            )
        )


def sources_directory() -> Path:
    """Return the directory with the recipes and C sources: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_images", package.parent / "images"):
        if candidate.is_dir():
            return candidate
    raise HostError("the sources of the guest image are missing", hint="install vpctl again")


def recipe_names(sources: Path) -> list[str]:
    """Return the names of the images that can be built."""
    return sorted(path.parent.name for path in sources.glob("*/recipe.toml"))


def load_recipe(name: str, sources: Path | None = None) -> Recipe:
    """Read a recipe; NotFoundError names those that exist."""
    sources = sources or sources_directory()
    path = sources / name / "recipe.toml"
    if name not in recipe_names(sources):
        known = ", ".join(f"`{known}`" for known in recipe_names(sources))
        raise NotFoundError(f"no image `{name}`", hint=f"images are {known}")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    base = raw.get("base", name)
    raw = tomllib.loads((sources / base / "recipe.toml").read_text(encoding="utf-8")) | raw
    return Recipe(
        name=name,
        base=base,
        sources=sources,
        release=raw["release"],
        architecture=raw["architecture"],
        kernel_args=tuple(raw["kernel_args"]),
        guest_packages=(raw["kernel"], *raw["guest"]["packages"]),
        tools_packages=(raw["headers"], *raw["tools"]["packages"]),
        remove=tuple(raw["guest"]["remove"]),
        modules=tuple(raw["guest"]["modules"]),
        boot_modules=tuple(raw["boot"]["modules"]),
        squashfs_options=tuple(raw["root"]["squashfs_options"]),
    )


def source_files(recipe: Recipe) -> Iterator[Path]:
    """Yield every file that the image is made from, sorted; what a compiler left in the tree is none of them."""
    for directory in sorted({recipe.name, recipe.base, *SHARED_SOURCES}):
        for path in sorted((recipe.sources / directory).rglob("*")):
            if path.is_file() and not _is_built(path.relative_to(recipe.sources)):
                yield path


def source_hashes(recipe: Recipe) -> dict[str, str]:
    """Return the SHA-256 of each source file, by its path below images/."""
    return {
        str(path.relative_to(recipe.sources)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in source_files(recipe)
    }


def recipe_key(recipe: Recipe) -> str:
    """Return the key: the same for the same sources, whatever the host, the mirror or the day."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for path, file_hash in source_hashes(recipe).items():
        digest.update(f"{path} {file_hash}\n".encode())
    return digest.hexdigest()[:16]


def _is_built(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    built = path.name in _BUILT or str(path) in _BUILT_PATHS or path.suffix in _BUILT_SUFFIXES
    return hidden or built
