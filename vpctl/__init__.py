"""vpctl: pairs of virtual machines, the shared-memory links between them, and their recovery."""

__version__ = "0.1.0"
