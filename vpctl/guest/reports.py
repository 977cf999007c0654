"""What the guest agent prints, decoded: a guest may say anything, at any length, and it is used as numbers and text.

`decode` returns what has the agent's keys, types and bounds, and leaves other keys out. Pure.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

import msgspec
from msgspec import Meta

from vpctl.errors import VerificationError

MOST_CHARACTERS = 1 << 16
"""Of a report, which is one line; that of a check with 40 tests has some 4000."""

Count = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=1000)]


class ReportError(VerificationError, ValueError):
    """An agent has printed what is no report."""


class SizeReport(TypedDict, total=False):
    """One test of a check's plan, as its sender (`sent`, `error`) or its receiver saw it."""

    protocol: Annotated[str, Meta(max_length=16)]
    size: Count
    sent: Count
    received: Count
    corrupt: Count
    duplicate: Count
    error: Text


class Report(TypedDict, total=False):
    """What `probe`, `send` and `recv` print, each with keys of its own."""

    ok: bool
    sent: Count
    received: Count
    corrupt: Count
    loss_percent: Annotated[float, Meta(ge=0.0, le=100.0)]
    rtt_ms: Annotated[float, Meta(ge=0.0, le=1e9)] | None
    error: Text
    tests: Annotated[list[SizeReport], Meta(max_length=1000)]
    counters: Annotated[dict[Annotated[str, Meta(max_length=32)], Count], Meta(max_length=32)]


_DECODER = msgspec.json.Decoder(Report)


def decode(text: str) -> Report:
    """Return the report on the last line of an agent's output; ReportError if there is none."""
    line = text.rstrip()[-MOST_CHARACTERS - 1 :].rpartition("\n")[2]
    try:
        if len(line) > MOST_CHARACTERS:
            raise ReportError(f"the agent's report has more than {MOST_CHARACTERS} characters")
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ReportError(f"the agent said {line[-200:]!r}") from error
