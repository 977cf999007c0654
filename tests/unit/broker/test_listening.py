"""A socket to which connections come faster than they should."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from vpctl.broker.budget import SECOND
from vpctl.broker.listening import MOST_CONNECTIONS, Listener
from vpctl.wait import pause, until


async def test_so_many_connections_are_accepted_in_a_second_and_the_rest_later() -> None:
    accepted: list[float] = []

    def take(connection: socket.socket) -> None:
        accepted.append(time.monotonic())
        assert connection.getblocking() is False
        connection.close()

    with TemporaryDirectory(prefix="vl", dir="/tmp") as name, ExitStack() as clients:
        path = Path(name) / "s"
        listener = Listener(path, take, backlog=64)
        for _ in range(2 * MOST_CONNECTIONS):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))

        async def all_of_them() -> bool | None:
            return len(accepted) == 2 * MOST_CONNECTIONS or None

        await until(all_of_them, timeout=30, what="all connections", every=0.01)
        assert accepted[MOST_CONNECTIONS] - accepted[0] >= SECOND * 0.99
        for _ in range(MOST_CONNECTIONS):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        listener.close()  # while it rests
        listener.close()
        await pause(0)
        assert not path.exists()


async def test_a_connection_that_cannot_be_taken_is_closed() -> None:
    def breaks(connection: socket.socket) -> None:
        raise RuntimeError("a fault of ours")

    with TemporaryDirectory(prefix="vl", dir="/tmp") as name, socket.socket(socket.AF_UNIX) as client:
        listener = Listener(Path(name) / "s", breaks, backlog=1)
        client.connect(f"{name}/s")
        client.settimeout(0)
        try:
            listener.accept()
        except RuntimeError:
            assert client.recv(1) == b""
        else:
            raise AssertionError("it was taken")
        listener.close()
