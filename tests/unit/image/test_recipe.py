"""The recipe, and the key that stands for it and its sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vpctl.errors import NotFoundError
from vpctl.image import image_key
from vpctl.image.recipe import load_recipe, recipe_key, source_hashes, sources_directory


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources_directory(), tmp_path / "images"))


def test_the_key_is_the_same_wherever_the_sources_lie(sources: Path) -> None:
    key = recipe_key(load_recipe("micro", sources))
    assert key == image_key("micro")
    assert len(key) == 16


@pytest.mark.parametrize("path", ["micro/recipe.toml", "micro/assemble.sh", "micro/init/main.c", "agent/pattern.h"])
def test_a_change_of_any_source_changes_the_key(sources: Path, path: str) -> None:
    before = recipe_key(load_recipe("micro", sources))
    with (sources / path).open("a") as stream:
        stream.write("\n")
    assert recipe_key(load_recipe("micro", sources)) != before


def test_a_new_source_and_a_renamed_one_change_the_key(sources: Path) -> None:
    keys = {recipe_key(load_recipe("micro", sources))}
    (sources / "driver").mkdir(exist_ok=True)
    (sources / "driver/new.c").write_text("")
    keys.add(recipe_key(load_recipe("micro", sources)))
    (sources / "driver/new.c").rename(sources / "driver/newer.c")
    keys.add(recipe_key(load_recipe("micro", sources)))
    assert len(keys) == 3


def test_what_a_compiler_leaves_in_the_tree_does_not_change_the_key(sources: Path) -> None:
    before = recipe_key(load_recipe("micro", sources))
    for built in ("agent/vpctl-agent", "agent/main.o", "micro/init/init", "agent/.main.c.swp"):
        (sources / built).write_bytes(b"\0")
    assert recipe_key(load_recipe("micro", sources)) == before


def test_an_unknown_image_names_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="no image `macro`") as raised:
        load_recipe("macro")
    assert raised.value.hint == "images are `micro`, `micro13`, `micro13-backports`"
    with pytest.raises(NotFoundError):
        load_recipe("../images/micro")


def test_settings_are_shell_words_that_no_value_can_break_out_of() -> None:
    recipe = load_recipe("micro")
    for line in recipe.settings().splitlines():
        name, _, value = line.partition("=")
        assert name.isupper()
        assert value.startswith('"')
        assert value.endswith('"')
        assert not set(value[1:-1]) & set('"`$\\\n')


def test_the_recipe_and_its_script_are_among_the_hashed_inputs() -> None:
    inputs = source_hashes(load_recipe("micro"))
    assert {"micro/recipe.toml", "micro/assemble.sh", "agent/Makefile", "agent/main.c"} <= set(inputs)


def test_what_a_recipe_does_not_say_its_base_says(sources: Path) -> None:
    micro, derived = load_recipe("micro", sources), load_recipe("micro13-backports", sources)
    assert (micro.suites(), derived.suites()) == ((), ("trixie-backports",))
    assert (micro.release, derived.release) == ("bookworm", "trixie")
    assert derived.guest_packages == ("linux-image-cloud-amd64/trixie-backports", *micro.guest_packages[1:])
    assert derived.tools_packages == ("linux-headers-cloud-amd64/trixie-backports", *micro.tools_packages[1:])
    assert derived.settings() == micro.settings()
    assert {"micro13-backports/recipe.toml", "micro/assemble.sh"} <= set(source_hashes(derived))
    assert recipe_key(derived) not in (recipe_key(micro), recipe_key(load_recipe("micro13", sources)))
