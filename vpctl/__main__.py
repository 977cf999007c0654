"""The entry point: the only `asyncio.run` of a command, the only `sys.exit`.

Nothing heavy is imported up here, nor in the modules of the verbs: `vpctl --help` imports all of them.
"""

from __future__ import annotations

import os
import sys

from vpctl.cli.interrupts import EXIT_CODE, Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vpctl.errors import VpctlError


async def perform(work: Any, context: Any, interrupts: Interrupts) -> Any:
    """Run a verb; the first SIGINT or SIGTERM cancels it, later ones wait for its cleanup and change nothing."""
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    interrupts.cancel_by(cancel)
    try:
        return await work.verb(context, **work.arguments)
    finally:
        interrupts.cancel_by(None)


def run_work(work: Any, warm: Any = None, interrupts: Interrupts | None = None) -> int:
    """Run a verb and write its result or error; return the exit code."""
    from vpctl.cli.verb import OutputFormat

    interrupts = interrupts or Interrupts()
    interrupts.as_json = work.common.format is OutputFormat.JSON
    ours = not interrupts.is_installed
    interrupts.install()
    try:
        return _performed(work, warm, interrupts)
    finally:
        if ours:
            interrupts.restore()


def _performed(work: Any, warm: Any, interrupts: Interrupts) -> int:
    import asyncio

    from vpctl.cli.streams import OutputError
    from vpctl.cli.verb import Context
    from vpctl.cli.view import progress, render
    from vpctl.errors import InterruptedByUserError
    from vpctl.rundir import Directories

    common = work.common
    log = progress.make_log(quiet=common.quiet, verbose=common.verbose)
    code = 0
    try:
        context = Context(common=common, log=log, directories=Directories.from_environment(), warm=warm)
        outcome = asyncio.run(perform(work, context, interrupts))
        interrupts.require_output()
        code = int(outcome.exit_code)
        render.result(outcome, context)
        sys.stdout.flush()
    except (KeyboardInterrupt, asyncio.CancelledError):
        caught: VpctlError = InterruptedByUserError("interrupted")
    except Exception as error:
        if common.debug:
            import traceback

            traceback.print_exc()
        caught = _as_ours(error)
    else:
        return code
    if isinstance(caught, OutputError) and caught.is_closed:
        return code  # who read our output has seen enough (`| head`)
    render.error(caught, as_json=interrupts.json_error and not isinstance(caught, OutputError))
    return caught.exit_code


def _as_ours(error: BaseException) -> VpctlError:
    """Return the one cause of a group, or the error itself; anything unknown is an internal error."""
    from vpctl.errors import InternalError, VpctlError, cause_of

    error = cause_of(error)
    if isinstance(error, VpctlError):
        return error
    return InternalError(
        f"unexpected {type(error).__name__}: {error}", hint="run again with --debug for the traceback"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (None: this process's) and exit with the contract's code."""
    interrupts = Interrupts()
    if arguments is None:  # else we are called within a program that has handlers and streams of its own
        interrupts.install()
    words = list(sys.argv[1:] if arguments is None else arguments)
    interrupts.as_json = _wants_json(words)
    if arguments is None:
        from vpctl.cli import streams

        streams.prepare(interrupts)
    warm = _warm_supervisor(words)
    try:
        code = _run(words, warm, interrupts)
    finally:
        if warm is not None:
            warm.dismiss()
    if arguments is None or code == EXIT_CODE:
        interrupts.ignore()
    sys.exit(code)


def _run(words: Sequence[str], warm: Any, interrupts: Interrupts) -> int:
    """Run a command line; return the exit code."""
    # Looking for plugins of pydantic, of which vpctl wants none, reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    import typer

    from vpctl.cli.app import build_app
    from vpctl.cli.execute import options_first
    from vpctl.cli.streams import OutputError
    from vpctl.cli.view import render
    from vpctl.errors import InterruptedByUserError, UsageError

    try:
        outcome = build_app()(options_first(words), standalone_mode=False)
        sys.stdout.flush()
    except OutputError as error:  # of a help text
        if error.is_closed:
            return 0
        render.error(error, as_json=False)
        return error.exit_code
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer exports its base only; the message is the help
            print(error.format_message(), file=sys.stderr)
            return UsageError.exit_code
        message = error.format_message()  # a sentence, which none of ours is
        message = message[:1].lower() + message[1:].rstrip(".")
        render.error(UsageError(message, hint=_usage_hint(error)), as_json=interrupts.as_json)
        return UsageError.exit_code
    except typer.Abort:
        render.error(InterruptedByUserError("interrupted"), as_json=interrupts.json_error)
        return InterruptedByUserError.exit_code
    if outcome is None or isinstance(outcome, int):
        return outcome or 0
    return run_work(outcome, warm, interrupts)


def _warm_supervisor(words: Sequence[str]) -> Any:
    """Start a supervisor for what looks like `up`, to import on another CPU while we do.

    It waits to be told what it is for; if this command has no use for it, the end of its stdin ends it.
    """
    if words[:1] != ["up"] or {"--help", "--dry-run"} & {*words}:
        return None
    from vpctl.broker.protocol import WARM
    from vpctl.process import Waiting

    return Waiting([sys.executable, "-m", "vpctl.supervisor", WARM])


def _wants_json(words: Sequence[str]) -> bool:
    """Whether a command line that could not be parsed asks for JSON."""
    from itertools import pairwise

    words = words[: words.index("--")] if "--" in words else words
    pairs = {*pairwise(words)}
    return bool({"--json", "-fjson", "--format=json"} & {*words} or {("-f", "json"), ("--format", "json")} & pairs)


def _usage_hint(error: Any) -> str:
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "vpctl"
    return f"{path} --help"


if __name__ == "__main__":
    main()
