"""Why a guest has no interface of a link's: which device no driver has taken, in the words of the guest's kernel."""

from __future__ import annotations

from vpctl.errors import VpctlError
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.agent import in_its_words
from vpctl.guest.traffic import Guest

NO_INTERFACE = "no such interface"
"""What the agent says of a link whose interface is not there."""

ASK_SECONDS = 10.0

LOOK = """
sys=${SYS:-/sys} proc=${PROC:-/proc}
for device in "$sys"/bus/pci/devices/*; do
    [ "$(cat "$device/vendor")" = 0x1af4 ] && [ ! -e "$device/driver" ] || continue
    address=${device##*/}
    echo "no driver has taken $address ($(cat "$device/vendor"):$(cat "$device/device"));"
    dmesg 2>/dev/null | grep -F "$address" | grep -v -e " pci $address:" -e pcieport | tail -n 2
done
grep -qw -e pci=nomsi "$proc/cmdline" && echo "it was booted with pci=nomsi;"
true
"""
"""Of virtio's and ivshmem's devices, all of which have Red Hat's vendor id; the kernel's own words on each."""


async def why_no_interface(guest: Guest) -> str | None:
    """Return what a guest's kernel says of devices without a driver; None where it says nothing."""
    try:
        done = await guest_ssh.run(guest.ssh, ["sh", "-c", LOOK], vm=guest.end.vm, timeout=ASK_SECONDS)
    except VpctlError:
        return None
    return in_its_words(done.stdout) if done.stdout.strip() else None
