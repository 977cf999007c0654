"""The entry point: the only `asyncio.run` of a command, the only `sys.exit`.

Nothing heavy is imported up here, nor in the modules of the verbs: `vpctl --help` imports all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vpctl.errors import InternalError, InterruptedByUserError, UsageError, VpctlError, cause_of


async def perform(work: Any, context: Any) -> Any:
    """Run a verb; the first SIGINT or SIGTERM cancels it, later ones wait for its cleanup and change nothing."""
    import asyncio
    import signal

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    def interrupt(number: int, frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(cancel)

    # Not the loop's own handlers: those end with it, and a second Ctrl-C while the error is written would kill us.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return await work.verb(context, **work.arguments)
    finally:
        if not task.cancelling():
            for number, handler in before.items():
                signal.signal(number, handler)


def run_work(work: Any, warm: Any = None) -> int:
    """Run a verb and write its result or error; return the exit code."""
    import asyncio

    from vpctl.cli import live, render
    from vpctl.cli.verb import Context, OutputFormat
    from vpctl.rundir import Directories

    common = work.common
    as_json = common.format is OutputFormat.JSON
    log = live.make_log(quiet=common.quiet, verbose=common.verbose)
    try:
        context = Context(common=common, log=log, directories=Directories.from_environment(), warm=warm)
        outcome = asyncio.run(perform(work, context))
        render.result(outcome, context)
        sys.stdout.flush()
        return int(outcome.exit_code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        caught: VpctlError = InterruptedByUserError("interrupted")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_broken():
            # Whoever read our output has seen enough (`| head`); what is left in the buffer has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if common.debug:
            import traceback

            traceback.print_exc()
        caught = _as_ours(error)
    render.error(caught, as_json=as_json)
    return caught.exit_code


def _stdout_is_broken() -> bool:
    """Whether it is our own output that nobody reads any more, not a socket of the verb's."""
    import select

    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told always
    except (OSError, ValueError):  # no descriptor, or closed
        return False
    return bool(poll.poll(0))


def _as_ours(error: BaseException) -> VpctlError:
    """Return the one cause of a group, or the error itself; anything unknown is an internal error."""
    error = cause_of(error)
    if isinstance(error, VpctlError):
        return error
    return InternalError(
        f"unexpected {type(error).__name__}: {error}", hint="run again with --debug for the traceback"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (None: this process's) and exit with the contract's code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    warm = _warm_supervisor(words)
    try:
        code = _run(words, warm)
    finally:
        if warm is not None:
            warm.dismiss()
    if code == InterruptedByUserError.exit_code:
        _ignore_interrupts()
    sys.exit(code)


def _run(words: Sequence[str], warm: Any) -> int:
    """Run a command line; return the exit code."""
    # Looking for plugins of pydantic, of which vpctl wants none, reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    import typer
    from typer._click import exceptions as click_exceptions

    from vpctl.cli.app import build_app

    try:
        outcome = build_app()(words, standalone_mode=False)
    except click_exceptions.ClickException as error:
        if isinstance(error, click_exceptions.NoArgsIsHelpError):
            error.show()
            return UsageError.exit_code
        from vpctl.cli import render

        message = error.format_message()  # a sentence, which none of ours is
        message = message[:1].lower() + message[1:].rstrip(".")
        render.error(UsageError(message, hint=_usage_hint(error)), as_json=_wants_json(words))
        return UsageError.exit_code
    except typer.Abort:
        return InterruptedByUserError.exit_code
    if outcome is None or isinstance(outcome, int):
        return outcome or 0
    return run_work(outcome, warm)


def _warm_supervisor(words: Sequence[str]) -> Any:
    """Start a supervisor for what looks like `up`, to import on another CPU while we do.

    It waits to be told what it is for; if this command has no use for it, the end of its stdin ends it.
    """
    if words[:1] != ["up"] or {"--help", "--dry-run"} & {*words}:
        return None
    from vpctl.broker.protocol import WARM
    from vpctl.process import Waiting

    return Waiting([sys.executable, "-m", "vpctl.supervisor", WARM])


def _ignore_interrupts() -> None:
    """Take no more signals: at its end Python gives back the handlers that kill, and nothing is left to interrupt."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _wants_json(words: Sequence[str]) -> bool:
    """Whether a command line that could not be parsed asks for JSON."""
    pairs = {*pairwise(words)}
    return bool({"--json", "-fjson", "--format=json"} & {*words} or {("-f", "json"), ("--format", "json")} & pairs)


def _usage_hint(error: Any) -> str:
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "vpctl"
    return f"{path} --help"


if __name__ == "__main__":
    main()
