"""What the broker is asked for: a record for each verb, read from a line and checked before anything is done.

Requests about one object are carried out in the order in which they came (`order`), all others beside each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from vpctl.broker.control_page import LARGEST_ID, MAX_QUEUE_PAIRS, vectors
from vpctl.broker.ivshmem.pair_server import EndSpec
from vpctl.broker.vhost_user.backend import BackendSpec
from vpctl.errors import UsageError
from vpctl.fields import Count, Name, PathText, Within, read

Handler = Callable[[Any], Any]
"""Carries a request out, at once or as a coroutine; returns the reply, None for an empty one."""

LONGEST_GRACE = 60.0
"""Seconds from SIGTERM to SIGKILL that may be asked for."""

Vectors = Annotated[int, Within(2, vectors(MAX_QUEUE_PAIRS))]
DeviceId = Annotated[int, Within(0, LARGEST_ID)]
Content = Annotated[bytes, Within(0, 1 << 20)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spawn:
    """Start a process."""

    name: Name
    generation: Count
    argv: Annotated[tuple[str, ...], Within(1, 8192)]
    directory: PathText
    cwd: PathText
    memories: Annotated[tuple[Name, ...], Within(0, 64)] = ()

    @property
    def order(self) -> object:
        return "process", self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """End one generation of a process: SIGTERM, `grace` seconds, SIGKILL."""

    name: Name
    generation: Count
    grace: Annotated[float, Within(0, LONGEST_GRACE)]

    @property
    def order(self) -> object:
        return "process", self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class StopBlocking:
    """Make what a process has accepted at a socket non-blocking."""

    name: Name
    path: PathText

    @property
    def order(self) -> object:
        return "process", self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class ListProcesses:
    """List what runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """End everything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Create:
    """See that there is a memory."""

    memory: Name
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Clear:
    """Make all of a memory zero."""

    memory: Name


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Write parts into a memory, each an offset and bytes."""

    memory: Name
    parts: tuple[tuple[int, Content], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Return bytes of a memory."""

    memory: Name
    offset: Annotated[int, Within(0, (1 << 62))]
    length: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Give a memory up."""

    memory: Name


@dataclass(frozen=True, kw_only=True, slots=True)
class ListMemories:
    """List the memories."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serve:
    """Serve a memory to two ivshmem devices."""

    name: Name
    memory: Name
    ends: Annotated[tuple[EndSpec, ...], Within(1, 16)]
    watch: Annotated[str, Within(0, 4095)] = ""
    """Where clients that are no QEMU may look on; empty: nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryIvshmem:
    """List what is served."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ring:
    """Raise the control interrupt of an end's device."""

    name: Name
    end: Annotated[int, Within(0, 15)]


@dataclass(frozen=True, kw_only=True, slots=True)
class IvshmemReplace:
    """Serve another device at an end."""

    name: Name
    end: Annotated[int, Within(0, 15)]
    spec: EndSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """End what is served under a name."""

    name: Name


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOpen(BackendSpec):
    """Listen for a front-end."""

    @property
    def order(self) -> object:
        return "backend", self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryBackends:
    """List the back-ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attach:
    """Serve a device that works a front-end's rings, in this session."""

    backend: Name
    session: Count
    name: Name
    path: PathText
    ivposition: DeviceId
    vectors: Vectors
    control: Name
    slot: Count
    description: Content

    @property
    def order(self) -> object:
        return "backend", self.backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Detach:
    """Switch off the device that works a front-end's rings."""

    backend: Name

    @property
    def order(self) -> object:
        return "backend", self.backend


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendClose:
    """Hang up on a front-end, and listen for it no more."""

    name: Name

    @property
    def order(self) -> object:
        return "backend", self.name


VERBS: dict[str, type] = {
    "spawn": Spawn,
    "end": End,
    "stop_blocking": StopBlocking,
    "list": ListProcesses,
    "stop": Stop,
    "create": Create,
    "clear": Clear,
    "write": Write,
    "read": Read,
    "drop": Drop,
    "memories": ListMemories,
    "serve": Serve,
    "query-ivshmem": QueryIvshmem,
    "ring": Ring,
    "ivshmem-replace": IvshmemReplace,
    "close": Close,
    "backend-open": BackendOpen,
    "query-backends": QueryBackends,
    "attach": Attach,
    "detach": Detach,
    "backend-close": BackendClose,
}


def request(message: dict[str, Any]) -> Any:
    """Return the record of a request, its `id` and `do` included in the message; UsageError if it is wrong."""
    verb = message.get("do")
    if not isinstance(verb, str) or verb not in VERBS:
        raise UsageError(f"there is no verb {verb[:40]!a}" if isinstance(verb, str) else "there is no verb")
    arguments = {key: value for key, value in message.items() if key not in ("id", "do")}
    return read(VERBS[verb], arguments, what=f"`{verb}`")
