"""What SIGINT and SIGTERM do to a command, from its first instruction to its last: they end it once, with 130.

Imported before everything else, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)

IN_WORDS = b"error: interrupted\n"
IN_JSON = b'{"schema_version": 1, "error": {"code": "interrupted", "message": "interrupted", "hint": null}}\n'


class AbandonedError(BaseException):
    """A signal came while a write to a stream of ours stood still; the rest of what was to be written is dropped."""


class Interrupts:
    """The handler of both signals. What it does depends on how far the command is.

    Until its verb begins, and after that has returned, nothing needs to be undone: the process leaves at once. A verb
    is cancelled, and cleans up. Signals after the first change nothing.
    """

    def __init__(self) -> None:
        self.as_json = False
        """Whether the error goes to stdout as JSON."""
        self.is_writing = False
        """Whether a stream of ours is being written to: who reads it may never go on, and is not waited for."""
        self._has_abandoned = False
        self._cancel: Callable[[], None] | None = None
        self._has_come = False
        self._before: dict[signal.Signals, Any] | None = None

    def install(self) -> None:
        """Handle both signals from now on."""
        if self._before is None:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    @property
    def is_installed(self) -> bool:
        """Whether signals come here."""
        return self._before is not None

    def restore(self) -> None:
        """Restore the handlers that were there before; not after one has come, since another must not kill us."""
        _tell_standstill(False)
        if self._before is not None and not self._has_come:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = None

    def cancel_by(self, cancel: Callable[[], None] | None) -> None:
        """Have the first signal call this; None: leave at once again."""
        self._cancel = cancel

    @property
    def has_come(self) -> bool:
        """Whether one of the signals has come."""
        return self._has_come

    @property
    def json_error(self) -> bool:
        """Whether an error goes to stdout as JSON: not after an interrupt has cut off what was written there."""
        return self.as_json and not self._has_abandoned

    def require_output(self) -> None:
        """Raise KeyboardInterrupt if output was dropped: a verb that has ended all the same is an interrupted one."""
        if self._has_abandoned:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Take no more signals: Python gives back the handlers that kill before it has ended."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: object) -> None:
        if self._has_come:
            return
        self._has_come = True
        if self._cancel is None:
            leave(as_json=self.as_json and not self.is_writing)
        else:
            self._cancel()
        if self.is_writing:
            self._has_abandoned = True
            raise AbandonedError
        if _tell_standstill(True):
            raise KeyboardInterrupt


def _tell_standstill(is_interrupted: bool) -> bool:
    """Tell `vpctl.wait.standstill` of a signal; return whether a call stands that the signal has to end."""
    waiting = sys.modules.get("vpctl.wait")
    if waiting is None:  # what has not been imported has no call that stands
        return False
    waiting.standstill.is_interrupted = is_interrupted
    return bool(waiting.standstill.is_on)


def leave(*, as_json: bool) -> None:
    """Say that we were interrupted, and end at once, whether or not anybody reads it."""
    import select

    for fd, text in ((1, IN_JSON), (2, IN_WORDS)) if as_json else ((2, IN_WORDS),):
        with suppress(OSError):
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if poll.poll(0):  # else it is full, and the write would wait for a reader
                os.write(fd, text)
                break
    os._exit(EXIT_CODE)
