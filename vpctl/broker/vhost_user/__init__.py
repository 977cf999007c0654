"""The vhost-user back-end: the protocol with QEMU, and the data path behind it, which another guest's device is."""
