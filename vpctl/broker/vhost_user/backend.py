"""A vhost-user back-end for one virtio-net of a VM: its control plane. The packets are another guest's: `datapath`.

It listens, and answers one front-end at a time. When the front-end's rings work, a *session* begins: a number, and
what there is to work with. A data path may be attached to it, and is switched off before anything of it changes; the
front-end's QEMU, which waits without a limit, waits for that no longer than the data path does.

The end of a connection leaves nothing of what was negotiated, and a message that is not understood is refused: to
the front-end if it has asked to be told, else by hanging up, since it may wait for a reply that nobody could give.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from vpctl.broker.budget import Budget
from vpctl.broker.control_page import Answer, AnswerState
from vpctl.broker.listening import Listener
from vpctl.broker.vhost_user import message as vhost_user
from vpctl.broker.vhost_user.datapath import Datapath, VringSet
from vpctl.broker.vhost_user.message import (
    MOST_FDS,
    REPLIES,
    Feature,
    Message,
    Parser,
    ProtocolError,
    ProtocolFeature,
    RefusedError,
    Request,
    RingState,
)
from vpctl.broker.vhost_user.negotiation import OFFER, PROTOCOL, SLOTS, Negotiation
from vpctl.errors import UsageError
from vpctl.fields import LARGEST, Name, PathText, Within
from vpctl.process import wait_readable
from vpctl.wait import pause

QUIET_SECONDS = 0.005
"""Without a word, after which rings that are complete are taken to work: QEMU sets the call it means after others."""

PARTLY_QUIET_SECONDS = 0.2
"""The same where queue pairs are missing: a guest enables all that it uses once its interface is set up."""

MOST_MESSAGES = 4096
"""Read from a front-end in one second; a QEMU with 16 queue pairs sends some hundreds when its rings start."""

MOST_REFUSALS = 8
"""Messages refused, with a reply, in one second; the next one ends the connection."""

MOST_SESSIONS = 16
"""Begun in one second; rings that start and stop more often begin theirs in the next."""

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendSpec:
    """A front-end: the device's name, where its QEMU connects, its RAM, and what it is offered."""

    name: Name
    path: PathText
    ram: Name
    """The name of the memory that is the VM's RAM."""
    features: Annotated[int, Within(0, LARGEST)]
    queue_pairs: int
    many_regions: bool = False
    """Whether it may have more than one table takes."""

    @property
    def protocol(self) -> ProtocolFeature:
        """The features of the protocol that are offered."""
        return SLOTS if self.many_regions else PROTOCOL

    @property
    def offer(self) -> int:
        """The features that are offered."""
        more = Feature.PROTOCOL_FEATURES | (Feature.MQ if self.queue_pairs > 1 else 0)
        return int(self.features & OFFER | more)


class State(Enum):
    """The state of a back-end's conversation with its front-end."""

    LISTENING = "listening"
    CONNECTED = "connected"
    READY = "ready"
    STOPPING = "stopping"
    CLOSED = "closed"


class Backend:
    """One front-end's back-end. The descriptor of the RAM becomes its own."""

    def __init__(self, spec: BackendSpec, *, ram: int, known: Callable[[os.stat_result], bool], tell: Tell) -> None:
        self.spec = spec
        self._ram: int | None = ram
        self._known = known
        self._tell_all = tell
        self._state = State.LISTENING
        self._session = 0
        self._vrings: VringSet | None = None
        """Of the present session; None: there is none."""
        self._datapath: Datapath | None = None
        self._given = 0
        """The features that the data path's guest was shown."""
        self._answer: Answer | None = None
        self._listener: Listener | None = None
        self._client: socket.socket | None = None
        self._negotiation: Negotiation | None = None
        self._conversation: asyncio.Task[None] | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self._refused: str | None = None
        self._messages = 0
        """That the front-ends have sent."""
        self._fault: str | None = None
        """Why this side has ended the connection."""
        self._may_send = Budget(MOST_MESSAGES)
        self._may_be_refused = Budget(MOST_REFUSALS)
        self._may_begin = Budget(MOST_SESSIONS)

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Listen; OSError if that fails. What is said is answered in a task of the group."""
        self._listener = Listener(Path(self.spec.path), lambda client: self._accept(client, tasks), backlog=4)

    def close(self) -> None:
        """Close everything at once, without a word to anybody's guest; idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._quiet is not None:
            self._quiet.cancel()
        if self._conversation is not None:
            self._conversation.cancel()  # the connection is closed when it has ended
        else:
            self._forget()
        self._drop_datapath()
        self._state = State.CLOSED

    def hang_up(self, reason: str) -> None:
        """End the present connection, for a reason that is told as `refused`; nothing if there is none."""
        if self._client is not None and self._fault is None:
            self._fault = reason
            with contextlib.suppress(OSError):  # it has gone already
                self._client.shutdown(socket.SHUT_RDWR)

    # Section: the data path

    def attach(self, session: int, datapath: Datapath) -> None:
        """Attach a data path to the present session; UsageError if it is another one by now, OSError if it fails."""
        if self._vrings is None or session != self._session:
            raise UsageError(f"session {session} of `{self.spec.name}` is over: the present one is {self._present()}")
        if self._datapath is not None and self._datapath.is_on:
            raise UsageError(f"`{self._datapath.name}` is attached to `{self.spec.name}` already")
        self._drop_datapath()
        datapath.attach(self._vrings)
        self._datapath, self._given = datapath, self._vrings.features

    async def detach(self) -> bool:
        """Switch the carrier off and end it; True if its guest has let go. Idempotent; the session goes on."""
        datapath = self._datapath
        if datapath is None:
            return True
        released = await datapath.off()
        if self._datapath is datapath:
            self._drop_datapath()
        return released

    @property
    def datapath(self) -> Datapath | None:
        """What is attached."""
        return self._datapath

    def hear_answer(self, answer: Answer) -> None:
        """Tell what a data path's guest says; of the features no more than it was given counts."""
        self._answer = answer
        self._tell("answer", **self._answer_as_json(answer))

    def _drop_datapath(self) -> None:
        if self._datapath is not None:
            self._datapath.detach()
        self._datapath = self._answer = None

    # Section: what is told

    def as_json(self) -> dict[str, Any]:
        """Return what `query_backends` tells of it."""
        vrings = self._vrings
        return {
            "name": self.spec.name,
            "path": self.spec.path,
            "ram": self.spec.ram,
            "offer": int(self.spec.features & OFFER),
            "state": self._state.value,
            "connected": self._client is not None,
            "session": self._present(),
            "queue_pairs": vrings.queue_pairs if vrings is not None else None,
            "features": vrings.features if vrings is not None else None,
            "attached": self._datapath.name if self._datapath is not None else None,
            "on": self._datapath is not None and self._datapath.is_on,
            "answer": self._answer_as_json(self._answer) if self._answer is not None else None,
            "refused": self._refused,
            "messages": self._messages,
            "rings": self._rings_as_json(),
        }

    def _rings_as_json(self) -> list[dict[str, int]]:
        if self._vrings is None or self._ram is None:
            return []
        return [{"size": ring.size, "waiting": ring.waiting(self._ram)} for ring in self._vrings.rings]

    def _present(self) -> int | None:
        return self._session if self._vrings is not None else None

    def _answer_as_json(self, answer: Answer) -> dict[str, Any]:
        state = "on" if answer.state == AnswerState.ON else "off"
        return {"state": state, "features": answer.features & self._given, "request": answer.request}

    def _tell(self, what: str, **details: Any) -> None:
        self._tell_all({"name": self.spec.name, "what": what, "session": self._session, **details})

    def _tell_refused(self, reason: str, *, closed: bool) -> None:
        self._refused = reason
        self._tell("refused", reason=reason, closed=closed)

    # Section: the conversation

    def _accept(self, client: socket.socket, tasks: asyncio.TaskGroup) -> None:
        assert self._ram is not None
        if self._client is not None:
            client.close()  # at once: it would wait for a word, and its whole QEMU with it
            self._tell_refused("a second front-end, while the first is connected", closed=True)
            return
        self._client = client
        self._negotiation = Negotiation(
            offer=self.spec.offer,
            queue_pairs=self.spec.queue_pairs,
            protocol_offer=self.spec.protocol,
            ram=self._ram,
            ram_name=self.spec.ram,
            known=self._known,
        )
        self._state = State.CONNECTED
        self._tell("connected")
        self._conversation = tasks.create_task(
            self._converse(client, self._negotiation), name=f"front-{self.spec.name}"
        )
        # Not in the task: one that is cancelled before it runs does nothing at all.
        self._conversation.add_done_callback(lambda _: self._forget())

    async def _converse(self, client: socket.socket, negotiation: Negotiation) -> None:
        """Answer a front-end until its end; afterwards no data path works its rings any more."""
        try:
            reason = await self._answer_all(client, negotiation)
            if self._fault is not None:
                reason = self._fault
                self._tell_refused(reason, closed=True)
            # The connection stays until nobody works the rings: a QEMU that lives takes to them once it ends.
            released = await self._end_session()
        except Exception as error:  # a fault of ours must not end the broker, and with it every link there is
            traceback.print_exc(file=sys.stderr)
            reason, released = f"{type(error).__name__}: {error}", False
            self._tell_refused(reason, closed=True)
        self._tell("gone", reason=reason, released=released)

    async def _answer_all(self, client: socket.socket, negotiation: Negotiation) -> str:
        """Answer a front-end until its end; return why it ended."""
        parser = Parser()
        try:
            while (message := await _read(client, parser)) is not None:
                self._messages += 1
                try:
                    # Where a message is there already nothing above has waited; others have a turn after each, and a
                    # front-end that writes without pause waits for the next second itself.
                    await pause(self._may_send.take())
                    if (reply := await self._carry_out(negotiation, message)) is not None:
                        await asyncio.get_running_loop().sock_sendall(client, reply)
                finally:
                    for fd in message.fds:
                        os.close(fd)
        except OSError as error:
            return f"the connection broke: {error.strerror}"
        except (ProtocolError, RefusedError) as error:
            self._tell_refused(str(error), closed=True)
            return str(error)
        finally:
            for fd in parser.drop():
                os.close(fd)
        return "the front-end has hung up"

    def _forget(self) -> None:
        """Forget a connection, now that nobody waits for it; idempotent."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        self._vrings = self._conversation = self._fault = None
        if self._negotiation is not None:
            self._negotiation.close()
            self._negotiation = None
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._listener is not None:
            self._state = State.LISTENING
        elif self._ram is not None:
            os.close(self._ram)
            self._ram = None

    async def _carry_out(self, negotiation: Negotiation, message: Message) -> bytes | None:
        """Carry out a message; return what is to be replied. RefusedError if the connection cannot go on."""
        acknowledged = message.wants_reply and bool(negotiation.protocol & ProtocolFeature.REPLY_ACK)
        try:
            payload = vhost_user.decode(message)
            if message.request == Request.GET_VRING_BASE:
                assert isinstance(payload, RingState)
                negotiation.halt(payload.index)
                await self._follow(negotiation, f"ring {payload.index} was stopped")
                base = negotiation.base(payload.index)
                return vhost_user.state_reply(message, RingState(index=payload.index, value=base))
            if message.request in REPLIES:
                return vhost_user.number_reply(message, negotiation.answer(message.request))
            negotiation.take(message, payload)
        except RefusedError as error:
            if message.request in REPLIES or not acknowledged:
                raise
            if self._may_be_refused.take() > 0:
                raise RefusedError(f"{error} (and {MOST_REFUSALS} messages before it within a second)") from error
            self._tell_refused(str(error), closed=False)
            return vhost_user.number_reply(message, 1)
        await self._follow(negotiation, f"{message.name} has changed it")
        return vhost_user.number_reply(message, 0) if acknowledged else None

    # Section: the session

    async def _follow(self, negotiation: Negotiation, reason: str) -> None:
        """See what a message has changed: end the session if the vrings are others, else set calls that differ."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        vrings, complete = None, True
        with contextlib.suppress(RefusedError):  # told once it is certain that this is what was meant
            vrings = negotiation.vrings()
            complete = vrings is not None
        if self._vrings is not None and vrings != self._vrings:
            released = await self._end_session()
            self._tell("stopped", reason=reason, released=released)
        if self._vrings is not None and vrings is not None:
            self._change_calls(self._vrings, vrings)
        elif complete:
            delay = PARTLY_QUIET_SECONDS if negotiation.is_partial else QUIET_SECONDS
            self._quiet = asyncio.get_running_loop().call_later(delay, self._begin_session, negotiation)

    def _begin_session(self, negotiation: Negotiation) -> None:
        """The rings are complete, and nothing has come for a while."""
        self._quiet = None
        if (wait := self._may_begin.take()) > 0:
            self._quiet = asyncio.get_running_loop().call_later(wait, self._begin_session, negotiation)
            return
        try:
            vrings = negotiation.vrings()
        except RefusedError as error:
            self._tell_refused(str(error), closed=False)
            return
        if vrings is None or self._vrings is not None:
            return
        self._session += 1
        self._vrings = vrings
        self._state = State.READY
        self._refused = None
        self._tell("ready", queue_pairs=vrings.queue_pairs, features=vrings.features)

    async def _end_session(self) -> bool:
        """Have the data path let go, if there is one; True if it has."""
        if self._vrings is None:
            return True
        self._vrings = None
        self._state = State.STOPPING
        released = await self._datapath.off() if self._datapath is not None else True
        self._state = State.CONNECTED
        return released

    def _change_calls(self, before: VringSet, now: VringSet) -> None:
        self._vrings = now
        for number, (old, new) in enumerate(zip(before.rings, now.rings, strict=True)):
            if old.call.id == new.call.id or self._datapath is None:
                continue
            try:
                self._datapath.change_call(number, new.call)
            except OSError as error:
                raise RefusedError(f"ring {number}: its call cannot be changed: {error}") from error


async def _read(client: socket.socket, parser: Parser) -> Message | None:
    """Read one message; None at the end. ProtocolError if what comes is no message."""
    while True:
        try:
            data, fds, truncated = _receive(client, parser.wanted)
        except BlockingIOError:
            await wait_readable(client.fileno())
            continue
        if not data:
            return None
        if truncated:
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"more than {MOST_FDS} descriptors with one message")
        if (message := parser.feed(data, fds)) is not None:
            return message


def _receive(client: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """Read at most `size` bytes and what comes with them; True if descriptors were lost."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(MOST_FDS * fds.itemsize)
    data, ancillary, flags, _ = client.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), bool(flags & socket.MSG_CTRUNC)
