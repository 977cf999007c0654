"""How often a VM is brought back that dies again and again: limits and pauses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vpctl.errors import RecoveryError

AT_ONCE_SECONDS = 10.0
"""A life that ends sooner after its recovery counts as none: the next attempt is one of the same series."""


@dataclass(kw_only=True, slots=True)
class Attempts:
    """The attempts at one VM: at most `attempts`, with pauses that double from `backoff`."""

    attempts: int
    backoff: float
    attempt: int = 0
    """The present one, from 1."""
    recovered_at: float | None = None

    def next_pause(self) -> float | None:
        """Begin the next attempt; return the seconds to wait before it, None if there is none left."""
        if self.attempt >= self.attempts:
            return None
        self.attempt += 1
        self.recovered_at = None
        return 0.0 if self.attempt == 1 else self.backoff * 2 ** (self.attempt - 2)

    def recovered(self, at: float) -> None:
        """The attempt has succeeded."""
        self.recovered_at = at

    def goes_on(self, died: float) -> bool:
        """Whether a death at this time is one more of the series."""
        return self.recovered_at is not None and died - self.recovered_at < AT_ONCE_SECONDS

    def exhausted(self, vm: str) -> RecoveryError:
        """Return the error of a VM that has died at once after each of the attempts."""
        message = f"`{vm}` died again within {AT_ONCE_SECONDS:g} s after each of {self.attempts} recoveries"
        return RecoveryError(message, hint=f"vpctl logs {vm}; vpctl recover {vm} tries again")
