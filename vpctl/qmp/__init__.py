"""QMP: one session to one QEMU, the events around a command, and hot-plugging that is done when it is done."""
