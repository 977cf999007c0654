"""Topologies with links, checked."""

from __future__ import annotations

from tests.unit.topology.loading import links, problems


def of_links(text: str) -> list[str]:
    """Return the problems of links without their places."""
    return [found.split(" ", 1)[1] for found in problems(links(text))]
