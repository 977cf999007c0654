"""One VM from boot to exit: its QEMU, the connections to its guest, its logs."""
