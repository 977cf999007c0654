"""`vpctl image`: the guest images."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result


async def build(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The image's recipe.")] = "micro",
    force: Annotated[bool, typer.Option("--force", help="Build again: newer packages for the same recipe.")] = False,
) -> Result:
    """Build a guest image, unless it is there."""
    from vpctl import image

    mirror = context.environ.get("VPCTL_DEBIAN_MIRROR") or None
    cache = context.directories.images
    if force:
        built = await image.build(name, cache=cache, mirror=mirror, log=context.log, force=True)
    else:
        built = await image.ensure(name, cache=cache, mirror=mirror, log=context.log)
    data = entry(built)
    return Result(data={"schema_version": 1, **data}, text=f"{data['name']} {data['key']}: {data['directory']}")


async def list_(context: Context) -> Result:
    """List the guest images in the cache."""
    from vpctl import image
    from vpctl.cli.view.render import table

    entries = [entry(found) for found in image.installed(context.directories.images)]
    rows = [(e["name"], e["key"], e["kernel"], e["built"], e["directory"]) for e in entries]
    return Result(
        data={"schema_version": 1, "images": entries},
        table=table(("image", "key", "kernel", "built", "directory"), rows),
    )


async def remove(
    context: Context,
    what: Annotated[str, typer.Argument(metavar="KEY|NAME", help="The key, its beginning, or a name.")],
) -> Result:
    """Remove images from the cache; one that a running topology uses is refused."""
    from vpctl import image

    removed = [entry(gone) for gone in image.remove(context.directories.images, what)]
    for gone in removed:
        context.log.info(f"removed {gone['directory']}")
    return Result(data={"schema_version": 1, "removed": removed})


def entry(image: Any) -> dict[str, Any]:
    """Return an image as JSON data."""
    manifest = image.manifest
    return {
        "name": image.name,
        "key": image.key,
        "directory": str(image.directory),
        "kernel": str(manifest.get("kernel_release", manifest.get("kernel", "?"))),
        "built": str(manifest.get("built", "?")),
    }
