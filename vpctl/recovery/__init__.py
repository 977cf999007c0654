"""Recovery: what counts as a fault, what to do about it (pure), and doing it, timed and journalled."""
