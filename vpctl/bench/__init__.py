"""Packets measured inside the guests: workloads, the order they run in, results, and what may be concluded."""
