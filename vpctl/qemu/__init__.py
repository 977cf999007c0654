"""QEMU as a program: what it can do, which accelerator really works, and its command line."""
