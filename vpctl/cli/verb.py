"""What every verb has in common: its options, its context, its result.

A verb is an async function `(context, …own parameters…) -> Result`. `verb` gives it the common options and turns a
call into `Work`, which `__main__` runs; so no verb parses, prints, exits or starts a loop by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.client.context import ClientContext

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vpctl.errors import VpctlError


class OutputFormat(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every command takes."""

    topology: str | None
    format: OutputFormat
    verbose: int
    quiet: bool
    debug: bool


@dataclass(frozen=True, kw_only=True)
class Context(ClientContext):
    """What a verb works with."""

    common: Common

    @property
    def json(self) -> bool:
        """Whether data goes out as JSON."""
        return self.common.format is OutputFormat.JSON


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a verb returns: data for JSON, the same for people, and the exit code."""

    data: Mapping[str, Any] | None = None
    table: RenderableType | None = None
    text: str | None = None
    """For data one could pipe, without what a terminal acts upon; wins over `table`."""
    raw: bool = False
    """Whether `text` is printed as it is."""
    errors: Sequence[VpctlError] = ()
    """What is wrong although there is a result; goes to stderr."""
    exit_code: int = 0


Verb = Callable[..., Awaitable[Result]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A verb that was called on the command line, with its arguments."""

    verb: Verb
    common: Common
    arguments: Mapping[str, Any]


COMMON_PARAMETERS: dict[str, Any] = {
    "topology": (
        Annotated[
            str | None, typer.Option("-t", "--topology", metavar="NAME", help="The running topology that is meant.")
        ],
        None,
    ),
    "format": (Annotated[OutputFormat, typer.Option("-f", "--format", help="How data is written.")], "table"),
    "json": (Annotated[bool, typer.Option("--json", help="The same as `-f json`.")], False),
    "verbose": (Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; repeatable.")], 0),
    "quiet": (Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but warnings and errors.")], False),
    "debug": (Annotated[bool, typer.Option("--debug", help="Show tracebacks.", hidden=True)], False),
}


def verb(function: Verb) -> Callable[..., Work]:
    """Return what typer calls: the verb's own parameters and the common ones, collected into `Work`."""
    own = inspect.signature(function, eval_str=True)
    parameters = [p for name, p in own.parameters.items() if name != "context"]
    for name, (annotation, default) in COMMON_PARAMETERS.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, annotation=annotation, default=default))

    def call(**values: Any) -> Work:
        taken = {name: values.pop(name) for name in COMMON_PARAMETERS}
        if taken.pop("json"):
            taken["format"] = OutputFormat.JSON
        return Work(verb=function, common=Common(**taken), arguments=values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # typer reads it
    call.__annotations__ = {p.name: p.annotation for p in keyword_only}
    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    return call
