"""The host: whether it can run a topology, and the part of a link that is there."""
