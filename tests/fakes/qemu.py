"""A QEMU made of a shell script: it answers what `probe` asks, and its boots behave as told."""

from __future__ import annotations

from pathlib import Path

VERSION = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"
DEVICES = ("virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtserialport", "pvpanic", "pcie-root-port")


def fake_qemu(
    directory: Path,
    *,
    name: str = "qemu-system-x86_64",
    version: str = VERSION,
    devices: tuple[str, ...] = DEVICES,
    netdevs: tuple[str, ...] = ("stream", "user"),
    accelerators: tuple[str, ...] = ("tcg", "kvm"),
    sandbox: bool = True,
    boot: str = "exit 9",
) -> tuple[str, ...]:
    """Write the script and return its argv prefix; `calls` beside it has a line per start.

    `modules` beside it, if it is written, is more of `-device help`, as an installed module would bring it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    help_of_devices = "\n".join(f'name "{device}", bus PCI' for device in devices)
    path.write_text(
        f"""#!/bin/sh
echo "$*" >> '{directory}/calls'
case "$*" in
*-sandbox*) {"" if sandbox else 'echo "-sandbox: not supported" >&2; exit 1'} ;;
esac
case "$*" in
*-version*) echo '{version}' ;;
*'-device help'*) echo 'Network devices:'; cat <<'END'
{help_of_devices}
END
cat '{directory}/modules' 2>/dev/null
true
;;
*'-netdev help'*) echo 'Available netdev backend types:'; printf '%s\\n' {" ".join(netdevs)} ;;
*'-accel help'*) echo 'Accelerators supported in QEMU binary:'; printf '%s\\n' {" ".join(accelerators)} ;;
*) {boot} ;;
esac
"""
    )
    path.chmod(0o755)
    return (str(path),)


def calls(directory: Path) -> list[str]:
    """Return the arguments of every start so far."""
    path = directory / "calls"
    return path.read_text().splitlines() if path.exists() else []
