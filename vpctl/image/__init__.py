"""Guest images: built from the recipes in images/, cached by the key of their sources, or the user's own."""

from vpctl.image.build import ImageBuildError, build, ensure
from vpctl.image.recipe import load_recipe, recipe_key, recipe_names, sources_directory
from vpctl.image.store import GuestImage, hold, installed, own, remove


def image_key(name: str = "micro") -> str:
    """Return the key that the image has, or would have once it is built."""
    return recipe_key(load_recipe(name))


__all__ = [
    "GuestImage",
    "ImageBuildError",
    "build",
    "ensure",
    "hold",
    "image_key",
    "installed",
    "own",
    "recipe_names",
    "remove",
    "sources_directory",
]
