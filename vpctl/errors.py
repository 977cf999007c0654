"""What can go wrong, sorted by who has to act; the exit code belongs to the class.

VpctlError ─┬─ UsageError 2 ── TopologyError 2 (every problem of a file at once)
            ├─ HostError 3 (the host is not fit)
            ├─ ReadyTimeoutError 4 (a boot or readiness stage did not finish, or its QEMU died)
            ├─ QmpError 5 ─┬─ QmpTimeoutError (no reply in time: the command may still be carried out)
            │              ├─ QmpLostError (the connection went away: nobody knows whether it was)
            │              └─ HotplugError (a plug or unplug did not come to its end)
            ├─ VerificationError 1 (a link does not carry packets)
            ├─ RecoveryError 6
            ├─ RegressionError 7
            ├─ NotFoundError 8 (nothing matched, nothing runs)
            ├─ InterruptedByUserError 130
            └─ InternalError 70 (a bug here; the hint names the log)

Exit codes and the `code` words are part of the user contract; a test pins both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class VpctlError(Exception):
    """An error that a user can act on: one sentence, and a hint with something to type."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70

    def __init__(
        self, message: str, *, hint: str | None = None, where: str | None = None, details: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where
        """`file:line:column` of the cause, where there is one."""
        self.details = details
        """Lines to look at: a serial console's last ones, the end of a log."""

    def as_json(self) -> dict[str, object]:
        """Return the `error` object of the JSON contract."""
        error: dict[str, object] = {"code": self.code, "message": self.message, "hint": self.hint}
        if self.where is not None:
            error["where"] = self.where
        if self.details is not None:
            error["details"] = self.details
        return error


class UsageError(VpctlError):
    """The command line asks for something that cannot be."""

    code = "usage"
    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong in a topology file; lines and columns count from 1."""

    message: str
    file: str
    line: int
    column: int
    hint: str | None = None

    @property
    def where(self) -> str:
        """The place as `file:line:column`."""
        return f"{self.file}:{self.line}:{self.column}"


class TopologyError(UsageError):
    """A topology file is wrong; carries every problem found in one run, in file order."""

    code = "topology"

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(first.message + more, hint=first.hint, where=first.where)
        self.problems = tuple(problems)

    def as_json(self) -> dict[str, object]:
        problems = [{"where": p.where, "message": p.message, "hint": p.hint} for p in self.problems]
        return {**super().as_json(), "problems": problems}


class HostError(VpctlError):
    """The host lacks something; the hint says how to get it."""

    code = "host"
    exit_code = 3


class ReadyTimeoutError(VpctlError):
    """A VM did not reach a stage of its boot: time ran out, or its QEMU ended."""

    code = "timeout"
    exit_code = 4


class QmpError(VpctlError):
    """QEMU refused or failed a QMP command."""

    code = "qmp"
    exit_code = 5


class QmpTimeoutError(QmpError):
    """QEMU did not answer in time; it may carry the command out later all the same."""


class QmpLostError(QmpError):
    """The QMP connection ended while a command was under way: it may or may not have been run."""


class HotplugError(QmpError):
    """A device could not be plugged or unplugged to the end."""


class VerificationError(VpctlError):
    """A link is up in name but does not carry packets intact, both ways."""

    code = "verification"
    exit_code = 1


class RecoveryError(VpctlError):
    """A recovery ended without verified traffic."""

    code = "recovery"
    exit_code = 6


class RegressionError(VpctlError):
    """Two results differ for the worse."""

    code = "regression"
    exit_code = 7


class NotFoundError(VpctlError):
    """No topology, VM or link of that name runs."""

    code = "not-found"
    exit_code = 8


class InterruptedByUserError(VpctlError):
    """SIGINT or SIGTERM ended the command; what it had begun was undone."""

    code = "interrupted"
    exit_code = 130


class InternalError(VpctlError):
    """Something here is wrong; the log says more."""


def cause_of(error: BaseException) -> BaseException:
    """Return the first cause in a group of exceptions, one of ours before any other; anything else as it is."""
    while isinstance(error, BaseExceptionGroup):
        ours, others = error.split(VpctlError)
        error = (ours or others or error).exceptions[0]
    return error


def errors_by_code() -> dict[str, type[VpctlError]]:
    """Map the contract's `code` words to classes, so that a client can raise what the supervisor said."""
    classes = (
        UsageError,
        TopologyError,
        HostError,
        ReadyTimeoutError,
        QmpError,
        VerificationError,
        RecoveryError,
        RegressionError,
        NotFoundError,
        InterruptedByUserError,
        InternalError,
    )
    return {cls.code: cls for cls in classes}
