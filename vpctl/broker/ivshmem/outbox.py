"""What an ivshmem client is told: sent as it reads, and never waited for."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from vpctl.broker.budget import Budget
from vpctl.broker.ivshmem.message import Message

MOST_UNSENT = 4096
"""Messages that wait for a client to read; a client that has more does not read at all, and is hung up on."""

MOST_READS = 16
"""Reads of what a client says, of 64 KiB each, in one second: it has nothing to say, and its end is seen by one."""


class Outbox:
    """One client's connection, which becomes its own. `gone` is called once, when it ends other than by `close`."""

    def __init__(self, client: socket.socket, gone: Callable[[], None]) -> None:
        self._client = client
        self._gone = gone
        self._unsent: deque[Message] = deque()
        """Their descriptors are duplicates: what they were made of may be closed, and its number taken, meanwhile."""
        self._may_read = Budget(MOST_READS)
        self._later: asyncio.TimerHandle | None = None
        asyncio.get_running_loop().add_reader(client, self._listen)

    def say(self, messages: Iterable[Message]) -> None:
        """Send messages, now or as the client reads."""
        if self._client.fileno() < 0:
            return
        try:
            for message in messages:
                self._unsent.append(_owned(message))
        except OSError:  # no descriptor is left: it has to connect again
            self._end()
            return
        self._send()
        if len(self._unsent) > MOST_UNSENT:
            self._end()

    def close(self) -> None:
        """Hang up; idempotent."""
        if self._client.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._client)
            loop.remove_writer(self._client)
            self._client.close()
        if self._later is not None:
            self._later.cancel()
        while self._unsent:
            _disown(self._unsent.popleft())

    def _end(self) -> None:
        if self._client.fileno() >= 0:
            self.close()
            self._gone()

    def _listen(self) -> None:
        """Learn of the client's end; what it says has no meaning."""
        if (wait := self._may_read.take()) > 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._client)
            self._later = loop.call_later(wait, loop.add_reader, self._client, self._listen)
            return
        try:
            alive = bool(self._client.recv(65536))
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            self._end()

    def _send(self) -> None:
        """Send what the client takes now, the rest when it takes more."""
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                _send_message(self._client, self._unsent[0])
                _disown(self._unsent.popleft())
        except BlockingIOError:
            loop.add_writer(self._client, self._send)
        except OSError:  # it has gone
            self._end()
        else:
            loop.remove_writer(self._client)


def _owned(message: Message) -> Message:
    return Message(number=message.number, fd=os.dup(message.fd) if message.fd is not None else None)


def _disown(message: Message) -> None:
    if message.fd is not None:
        os.close(message.fd)


def _send_message(client: socket.socket, message: Message) -> None:
    """Send one message whole; BlockingIOError if there is no room."""
    fds = [message.fd] if message.fd is not None else []
    socket.send_fds(client, [message.encode()], fds)
