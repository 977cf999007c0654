"""QEMU's ivshmem protocol, the server's side: regions of memory and eventfds for the devices of a link."""
