"""Eventfds that are signalled without ever making the event loop wait.

O_NONBLOCK belongs to the open file, and so does an eventfd's counter (eventfd(2)): each QEMU that was given the
descriptor can clear the one and fill the other, and a writer then waits until another holder reads. So a thread of
its own writes. One write that does not return is interrupted by a signal, which the kernel heeds in exactly that wait
(EINTR; PEP 475 leaves `os.eventfd_write` out); that eventfd is not written to again, and its owner is told.

An eventfd that is rung twice before the thread comes to it is written to once: the backlog is never longer than the
number of bells.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable

from vpctl.wait import pause

PATIENCE = 0.25
"""Seconds between two looks at the thread; a write that was under way at both is interrupted."""

SETTLING_SECONDS = 0.001
"""Between two looks whether a write has ended; one takes microseconds where the thread has a CPU."""

INTERRUPT = signal.SIGURG
"""Ignored where there is no handler for it, so that one which comes late does no harm."""


class Bell:
    """An eventfd to write to; it has a descriptor of its own. `stuck` is called, once, when a write has to wait."""

    def __init__(self, bells: Bells, fd: int, stuck: Callable[[], None]) -> None:
        self._bells = bells
        self._fd: int | None = os.dup(fd)
        self._stuck = stuck
        self._writing = False
        self.pending = False

    def ring(self) -> None:
        """Have the eventfd's counter raised by one soon; nothing once it is closed or was stuck."""
        if self._fd is not None and not self.pending:
            self.pending = True
            self._bells.put(self)

    async def settled(self) -> None:
        """Wait until what was rung so far is written, or given up, which takes `PATIENCE` twice."""
        while self._fd is not None and (self.pending or self._writing):
            await pause(SETTLING_SECONDS)

    def close(self) -> None:
        """Ring no more; idempotent. A write that is under way keeps the descriptor until it ends."""
        with self._bells.lock:
            fd, self._fd = self._fd, None
            if fd is not None and not self._writing:
                os.close(fd)

    def write(self) -> bool:
        """Write to the eventfd; False if that had to be interrupted. In the thread."""
        with self._bells.lock:
            self.pending = False
            fd = self._fd
            if fd is None:
                return True
            self._writing = True
        try:
            os.eventfd_write(fd, 1)
        except InterruptedError:
            return False
        except OSError:  # a full counter is a signal that is pending already
            return True
        finally:
            with self._bells.lock:
                self._writing = False
                if self._fd is None:  # closed meanwhile
                    os.close(fd)
        return True

    def give_up(self) -> None:
        """Close it, and tell the owner that it was stuck, unless the owner has closed it."""
        if self._fd is not None:
            self.close()
            self._stuck()


class Bells:
    """The thread, and the watch over it. To be used by one event loop, in the process's main thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._waiting: deque[Bell] = deque()
        self._wake = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._writes = 0
        """Counts each beginning of a write and each end: it is odd while one is under way."""
        self._seen = 0
        self._closed = False

    def bell(self, fd: int, stuck: Callable[[], None]) -> Bell:
        """Return a bell for an eventfd, which stays the caller's; OSError if there is no descriptor left."""
        return Bell(self, fd, stuck)

    def put(self, bell: Bell) -> None:
        """Have a bell written to by the thread."""
        if self._closed:
            return
        if self._thread is None:
            signal.signal(INTERRUPT, _nothing)  # without SA_RESTART: signal(7)
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="bells", daemon=True)
            self._thread.start()
        self._waiting.append(bell)
        self._wake.release()
        if self._watch is None:
            self._look_later()

    def close(self) -> None:
        """End the thread once it has written what is waiting; idempotent. One that is stuck ends with the process."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self._closed:
            self._closed = True
            self._wake.release()
            if self._thread is not None:
                self._thread.join(PATIENCE)
                self._interrupt()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if not self._waiting:
                return
            bell = self._waiting.popleft()
            self._writes += 1
            written = bell.write()
            self._writes += 1
            if not written and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(bell.give_up)

    def _look_later(self) -> None:
        self._seen = self._writes
        self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look)

    def _look(self) -> None:
        """Interrupt a write that was under way at the last look and still is."""
        self._watch = None
        if self._writes == self._seen:
            self._interrupt()
        if self._waiting or self._writes % 2:
            self._look_later()

    def _interrupt(self) -> None:
        if self._writes % 2 and self._thread is not None and self._thread.ident is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._thread.ident, INTERRUPT)


class Hearing:
    """Hears an eventfd that others write to, and never reads it: that would wait where another has just read it.

    Each write is an edge (EPOLLET, epoll(7)), whatever the counter was before. A counter that is full is the writers'
    loss, and so is one that another holder reads first: what it took is not heard.
    """

    def __init__(self, fd: int, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._edges = select.epoll()
        try:
            self._edges.register(fd, select.EPOLLIN | select.EPOLLET)
            asyncio.get_running_loop().add_reader(self._edges.fileno(), self._take)
        except BaseException:
            self._edges.close()
            raise

    def close(self) -> None:
        """Hear no more; idempotent."""
        if not self._edges.closed:
            asyncio.get_running_loop().remove_reader(self._edges.fileno())
            self._edges.close()

    def _take(self) -> None:
        if self._edges.poll(0):
            self._heard()


def _nothing(number: int, frame: object) -> None:
    """Handle a signal that is sent for the interruption's sake alone."""
