"""One QMP connection to one QEMU: every call has a time-out, every wait learns of the connection's end.

qemu.qmp does the protocol. This adds what its users trip over: a time-out on each call and on connecting, one reason
for the end of a connection instead of three exception types, and event queues that are bounded.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vpctl import wait
from vpctl.errors import QmpError, QmpLostError, QmpTimeoutError
from vpctl.qmp import shapes
from vpctl.qmp.events import Event, Expectation, Hub

if TYPE_CHECKING:  # qemu.qmp is imported by the first connection, so that verbs without one do not pay for it
    from qemu.qmp import QMPClient

MOST_FDS = 16
"""Descriptors that QEMU takes from one message (SOCKET_MAX_FDS); it loses those above."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that a command may take: QEMU answers in milliseconds, or it hangs (a mute vhost-user back-end)."""


class QmpRefusedError(QmpError):
    """QEMU carried out nothing and said why; nearly always `GenericError`, so the text is what tells."""

    def __init__(self, vm: str, command: str, response: Mapping[str, Any]) -> None:
        super().__init__(f"{vm}: `{command}` was refused: {response['desc']}")
        self.vm = vm
        self.command = command
        self.response = response
        """The reply's `error` object, as it came."""
        self.error_class = str(response["class"])
        self.description = str(response["desc"])


class Journal(Protocol):
    """What is told of every event and command; the defaults do nothing, and none of them may raise."""

    def qmp_event(self, vm: str, event: Mapping[str, Any]) -> None:
        """An event has come."""
        return

    def qmp_command(
        self, vm: str, command: str, arguments: Mapping[str, Any], outcome: Mapping[str, Any], ms: float
    ) -> None:
        """A command has ended; `outcome` has one key: `return`, `error`, `timeout`, `lost` or `cancelled`."""
        return


class NoJournal(Journal):
    """Keeps nothing."""


class Session:
    """One QMP connection to one QEMU; made by `open_session` or `connect`, usable by several tasks at once."""

    def __init__(
        self,
        vm: str,
        client: QMPClient,
        hub: Hub,
        sock: socket.socket,
        *,
        default_timeout: float,
        journal: Journal,
        of_qemu: bool,
    ) -> None:
        self.vm = vm
        self._of_qemu = of_qemu
        self.default_timeout = default_timeout
        self.netdev_settles = 0.0
        """When the last `netdev_add` will have come to rest in QEMU (monotonic seconds); `hotplug` keeps it."""
        self._client = client
        self._hub = hub
        self._sock = sock
        self._journal = journal
        self._sending_fd = asyncio.Lock()
        # Ends by itself with the connection, and `close` waits for it. No TaskGroup can own it: a session may be
        # opened in one place and closed in another.
        self._watcher = asyncio.create_task(self._watch(), name=f"qmp {vm}")

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version, from the greeting."""
        greeting = self._client.greeting
        assert greeting is not None
        version: Mapping[str, Any] = greeting.QMP.version
        qemu = version["qemu"]
        return (qemu["major"], qemu["minor"], qemu["micro"])

    @property
    def lost(self) -> QmpLostError | None:
        """Why the connection has ended; None while it lives."""
        return self._hub.lost

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Run a command and return what it returned.

        Raises QmpRefusedError if QEMU refused; QmpTimeoutError if there was no reply within `timeout` seconds (the
        session stays usable, a late reply is dropped, but QEMU may still carry the command out); QmpLostError if the
        connection ended first (the command may or may not have been run); QmpError if the reply has no sense.
        """
        given = dict(arguments or {})
        limit = self.default_timeout if timeout is None else timeout
        outcome: dict[str, Any] = {"cancelled": True}
        began = time.monotonic()
        try:
            outcome = await self._outcome(command, given, limit)
        finally:
            self._journal.qmp_command(self.vm, command, given, outcome, (time.monotonic() - began) * 1000)
        returned = self._value(command, outcome)
        return shapes.reply(self.vm, command, returned) if self._of_qemu else returned

    async def send_fd(self, name: str, fd: int, *, above: int = 0) -> None:
        """Give QEMU a copy of a descriptor, under a name (`getfd`); a second one of that name replaces the first.

        It gets the lowest free number, or the one after the `above` (at most MOST_FDS) lowest, which stay free.
        """
        # QEMU gives `getfd` the descriptor that came last: two senders must not cross.
        async with self._sending_fd:
            if above:
                self._send_copies(fd, above)
            self._send_copies(fd, 1)
            await self.execute("getfd", {"fdname": name})

    @asynccontextmanager
    async def numbers_taken(self, fd: int, count: int) -> AsyncIterator[None]:
        """Have QEMU's `count` (at most MOST_FDS) lowest free numbers taken, by copies of a descriptor, for a while.

        Whatever QEMU opens in the block gets numbers above them. `send_fd` waits until it is over.
        """
        name = "vpctl.numbers"
        async with self._sending_fd:
            self._send_copies(fd, count)
            await self.execute("query-status")  # answered: the copies are there
            try:
                yield
            finally:
                with contextlib.suppress(QmpError):
                    await self.execute("getfd", {"fdname": name})  # takes one, and QEMU closes the others
                    await self.execute("closefd", {"fdname": name})

    def _send_copies(self, fd: int, count: int) -> None:
        """Send copies of a descriptor in one message: QEMU keeps them until others come, or `getfd` takes one.

        It reads the next message, and has its descriptors, before it closes those of the last one
        (`tcp_chr_recv`, 7.2 to 11.1).
        """
        if self.lost is not None:
            raise self._lost_during("getfd", self.lost.message)
        try:
            # Blank: between two commands, to which it means nothing.
            self._sock.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * count))])
        except OSError as error:
            raise self._lost_during("getfd", f"{self.vm}: {error.strerror}") from error

    def expect(
        self, *names: str, match: Callable[[Event], bool] | None = None
    ) -> AbstractContextManager[Expectation]:
        """Open a listener for events of these names; open it before the command that causes them."""
        return self._hub.listen(*names, match=match)

    def subscribe(self, *, keep: Collection[str] = ()) -> AbstractContextManager[Expectation]:
        """Open a listener for every event: `async for` over it ends with the connection (`lost` says why).

        A reader that is slow loses the oldest events, but none of the names in `keep`.
        """
        return self._hub.listen(keep=keep)

    async def closed(self) -> None:
        """Return when the connection has ended, by whichever side; race with this."""
        await asyncio.wait([self._watcher])

    async def close(self) -> None:
        """End the connection; idempotent, and quick even if QEMU does not read."""
        self._hub.end(QmpLostError(f"{self.vm}: the QMP connection was closed on this side"))
        # Not `disconnect()`, which first flushes: a stopped QEMU would hold it for ever.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        await self.closed()

    async def _outcome(self, command: str, arguments: dict[str, Any], limit: float) -> dict[str, Any]:
        from qemu.qmp import ExecInterruptedError, ExecuteError, QMPError, StateError

        try:
            async with asyncio.timeout(limit):
                return {"return": await self._client.execute(command, arguments or None)}
        except TimeoutError:
            return {"timeout": limit}
        except ExecuteError as error:
            # The whole object: our own control socket speaks this format too, and says more than class and text.
            refusal: Any = error.received["error"]
            return {"error": dict(refusal)}
        except (ExecInterruptedError, StateError):
            await self.closed()  # only then is the reason known
            return {"lost": self.lost.message if self.lost is not None else ""}
        except QMPError as error:  # a reply that is neither `return` nor `error`
            return {"error": {"class": type(error).__name__, "desc": str(error)}}

    def _value(self, command: str, outcome: Mapping[str, Any]) -> Any:
        if "timeout" in outcome:
            raise QmpTimeoutError(
                f"{self.vm}: no reply to `{command}` within {outcome['timeout']:g} s",
                hint="QEMU hangs or is stopped; a silent vhost-user or ivshmem peer holds it until its socket closes",
            )
        if "error" in outcome:
            error = outcome["error"]
            raise QmpRefusedError(self.vm, command, error)
        if "lost" in outcome:
            raise self._lost_during(command, outcome["lost"])
        return outcome["return"]

    def _lost_during(self, command: str, why: str) -> QmpLostError:
        return QmpLostError(f"{why}, with `{command}` under way")

    async def _watch(self) -> None:
        """Wait for the end of the connection, clean up after it, and tell everybody who waits."""
        from qemu.qmp import Runstate

        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        try:
            await self._client.disconnect()
            reason = "the QMP connection ended"
        except EOFError:
            reason = "QEMU closed the QMP connection"
        except Exception as error:  # whatever ended it, OSError or a protocol error, is the reason to report
            reason = f"the QMP connection failed: {error or type(error).__name__}"
        self._hub.end(QmpLostError(f"{self.vm}: {reason}"))


async def open_session(
    path: str | os.PathLike[str],
    *,
    vm: str,
    timeout: float,
    default_timeout: float = DEFAULT_TIMEOUT,
    journal: Journal | None = None,
    of_qemu: bool = False,
) -> Session:
    """Connect to a QMP socket, greeting and capabilities included; `close` is the caller's to call.

    `of_qemu`: a QEMU answers, whose replies and events are checked (`qmp.shapes`), and no server of ours.
    Tries again while the socket is not there or nobody answers on it. Raises ReadyTimeoutError after `timeout`
    seconds, with what happened last; race it with QEMU's exit.
    """
    seen = "nothing yet"

    async def attempt() -> Session | None:
        nonlocal seen
        seen = "no greeting: another client may hold this socket"
        try:
            return await _connect_once(os.fspath(path), vm, default_timeout, journal or NoJournal(), of_qemu)
        except ConnectionError as error:
            seen = str(error)
            return None

    return await wait.until(attempt, timeout=timeout, what=f"{vm}: QMP at {path}", every=0.02, last_seen=lambda: seen)


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str],
    *,
    vm: str,
    timeout: float,
    default_timeout: float = DEFAULT_TIMEOUT,
    journal: Journal | None = None,
    of_qemu: bool = False,
) -> AsyncIterator[Session]:
    """Hold a session for as long as the block lasts; see `open_session`."""
    session = await open_session(
        path, vm=vm, timeout=timeout, default_timeout=default_timeout, journal=journal, of_qemu=of_qemu
    )
    try:
        yield session
    finally:
        await session.close()


async def _connect_once(path: str, vm: str, default_timeout: float, journal: Journal, of_qemu: bool) -> Session:
    """Connect and negotiate; ConnectionError with the reason if that failed."""
    from qemu.qmp import ConnectError, QMPClient

    client = QMPClient(vm)
    hub = Hub(vm)

    def take(said: Any) -> bool:
        event = shapes.event(said) if of_qemu else said
        if event is not None:
            journal.qmp_event(vm, event)
            hub.publish(event)
        return False  # not for the client's own queue and history, which nobody empties

    client.events.event_filter = take
    # The socket is ours, so that `close` can cut it; qemu.qmp only has a way that flushes first.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, path)
        await client.connect(sock)
    except ConnectError as error:  # an event may come before the greeting on a socket just taken over: try again
        sock.close()
        raise ConnectionError(str(error)) from error
    except OSError as error:
        sock.close()
        raise ConnectionError(error.strerror or str(error)) from error
    except BaseException:
        sock.close()
        raise
    return Session(vm, client, hub, sock, default_timeout=default_timeout, journal=journal, of_qemu=of_qemu)
