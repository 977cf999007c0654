"""How often something that others cause may happen in a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECOND = 1.0


class Budget:
    """So many times in each second that begins with the first of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._began = -SECOND

    def take(self) -> float:
        """Take one, and return 0; or the seconds until there is one again."""
        now = time.monotonic()
        if now - self._began >= SECOND:
            self._began, self._left = now, self._most
        if self._left > 0:
            self._left -= 1
            return 0.0
        return self._began + SECOND - now


class Paced:
    """Calls a function each time it is asked to, as far as a budget allows; what comes beyond is one call, later."""

    def __init__(self, most: int, act: Callable[[], None]) -> None:
        self._budget = Budget(most)
        self._act = act
        self._later: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Call now, or, where that was done often enough, once in the next second."""
        if self._later is not None:
            return
        if (wait := self._budget.take()) > 0:
            self._later = asyncio.get_running_loop().call_later(wait, self._do_late)
        else:
            self._act()

    def close(self) -> None:
        """Call no more; idempotent."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _do_late(self) -> None:
        self._later = None
        self.ask()
