"""Names of a link's devices."""

from __future__ import annotations

from vpctl.links.devices import device_generations, device_id


def test_a_links_devices_are_known_by_their_names() -> None:
    names = ["type", device_id("lan0", 12), device_id("lan0", 3), device_id("lan01", 4), "lan0.gx", "lan0.g"]
    assert device_generations("lan0", names) == [3, 12]
