"""The wheel works outside of a checkout: `pipx install .` must bring recipe, driver and agent sources along."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from vpctl.image import image_key

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.mandatory


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a program far from the checkout; its output, or a failure with all that it said."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("build", "hatchling"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed in {sys.prefix}: run `make setup`")
    target = tmp_path_factory.mktemp("wheel")
    # Without isolation: nothing is fetched, and the build backend is the pinned one.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtualenv with the wheel in it; what the wheel needs is borrowed from the running one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin/python"
    scheme = sysconfig.get_path("purelib", "venv", vars={"base": str(home)})
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    run(*pip, "--disable-pip-version-check", wheel, cwd=home)
    (Path(scheme) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def sources(directory: Path, suffixes: tuple[str, ...] = ()) -> set[str]:
    """Return the files under version control below a directory, relative to it; all of them without git."""
    done = subprocess.run(["git", "ls-files", "-z", "."], cwd=directory, capture_output=True, text=True, check=False)
    names = set(done.stdout.split("\0")) - {""}
    if done.returncode != 0 or not names:
        names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in names if (directory / name).is_file() and name.endswith(suffixes or ("",))}


def test_every_image_source_travels_in_the_wheel(wheel: Path) -> None:
    packed = {
        name.removeprefix("vpctl/_images/") for name in zipfile.ZipFile(wheel).namelist() if "/_images/" in name
    }
    wanted = sources(ROOT / "images")
    assert any(name.startswith("micro/") for name in wanted)
    assert wanted - packed == set()


def test_every_module_travels_in_the_wheel_and_no_test(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"vpctl/{name}" for name in sources(ROOT / "vpctl", (".py",))} - packed == set()
    assert not [name for name in packed if name.startswith(("tests/", "images/", "docs/"))]


def test_the_licenses_travel_in_the_wheel(wheel: Path) -> None:
    packed = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in packed)
    assert any(name.endswith("licenses/LICENSES/GPL-2.0-only.txt") for name in packed)


def test_runs_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "bin/python", "-c", "import vpctl; print(vpctl.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    assert run(installed / "bin/vpctl", "version", cwd=tmp_path).startswith("vpctl ")
    assert "image" in run(installed / "bin/vpctl", "--help", cwd=tmp_path)


def test_finds_its_own_recipe_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    source = "from vpctl.image.recipe import sources_directory; print(sources_directory())"
    found = Path(run(installed / "bin/python", "-c", source, cwd=tmp_path).strip())
    assert found.is_relative_to(installed)
    assert (found / "micro/recipe.toml").is_file()


def test_its_image_is_the_one_that_the_checkout_builds(installed: Path, tmp_path: Path) -> None:
    """Otherwise the same image would be built twice, and a cache filled by one would be of no use to the other."""
    source = "from vpctl.image import image_key; print(image_key())"
    assert run(installed / "bin/python", "-c", source, cwd=tmp_path).strip() == image_key()
