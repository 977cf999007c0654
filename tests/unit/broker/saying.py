"""What is said to a broker of its own process, and what it says."""

from __future__ import annotations

import json
import socket

from hypothesis import strategies as st

from vpctl.rundir import RunDir

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def said_to(rundir: RunDir, data: bytes) -> bytes:
    """Send bytes and nothing more; return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(rundir.broker_socket))
        received = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it said before it hung up counts
    return received


def is_well(rundir: RunDir) -> bool:
    reply = json.loads(said_to(rundir, b'{"id":1,"do":"list"}\n'))
    return [child["name"] for child in reply["return"]["processes"]] == ["supervisor"]
