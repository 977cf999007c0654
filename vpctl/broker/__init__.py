"""The broker: parent of every QEMU, owner of what must outlive the supervisor. Standard library only, no policy."""
