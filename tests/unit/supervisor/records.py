"""A run, and what a supervisor has written down of it."""

from __future__ import annotations

from tests.made import made_run, made_topology

RUN = made_run(made_topology(("lan0", "a", "b"), ("lan1", "a", "b")))

VMS, LINKS = ["a", "b"], ["lan0", "lan1"]
