"""Watches that find faults: of QEMU and its guest, of links' interfaces, of vhost-user devices' vrings."""
