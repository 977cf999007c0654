"""Commands of vpctl's that are forked off a process which has imported all of it already.

An import of vpctl takes longer than most commands: a third of a second, and several where the CPU is emulated. A
command that a test starts and does not touch until its end need not do it again. What is run is the `main` of
`vpctl.__main__`, in a process of its own, with its own arguments, environment, directory and descriptors.
`VPCTL_TEST_COLD=1` has every command start from nothing.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
WITH = ("bench", "cli", "client", "guest", "host", "image", "plan", "qmp", "recovery", "topology")
"""The packages that commands import; those of the supervisor and the broker run in processes of their own."""

COLD = ("up",)
"""Verbs that leave processes behind: that these hold on to nothing of the command's is seen by pipes only."""


def is_forked(words: Sequence[str]) -> bool:
    """Whether a command is one of those that are forked."""
    return words[0] not in COLD and not os.environ.get("VPCTL_TEST_COLD")


class Forkserver:
    """The process that has imported vpctl; it ends with the one that started it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("VPCTL_")}
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environ.get("PYTHONPATH")])])
        with theirs:
            argv = [sys.executable, "-m", "tests.vm.forked", str(theirs.fileno())]
            self._process = subprocess.Popen(argv, env=environ, cwd=ROOT, pass_fds=[theirs.fileno()])
        self._socket = ours
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()

    def run(
        self, words: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; after `timeout` seconds it is killed, and TimeoutError has what it said."""
        request = json.dumps({"words": [*words], "environ": {**env}, "cwd": str(cwd)})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, os.fdopen(os.memfd_create("out"), "w+b") as out, os.fdopen(os.memfd_create("err"), "w+b") as err:
            with theirs, os.fdopen(os.memfd_create("request"), "w+b") as body:
                body.write(request.encode())
                body.flush()
                socket.send_fds(self._socket, [b"run"], [theirs.fileno(), body.fileno(), out.fileno(), err.fileno()])
            ours.settimeout(timeout)
            try:
                answer = ours.recv(64)
                timed_out = False
            except TimeoutError:
                ours.shutdown(socket.SHUT_WR)  # the command is killed
                ours.settimeout(10)
                answer, timed_out = ours.recv(64), True
            said = [_text(stream) for stream in (out, err)]
            if timed_out:
                raise TimeoutError("\n".join(said))
            return subprocess.CompletedProcess([*words], int(answer), *said)


def _text(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode(errors="replace"))


def serve(requests: socket.socket) -> None:
    """Take requests until the test process is gone; a child watches over each command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the watchers
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 16, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _watch(*fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _watch(answers_fd: int, request: int, out: int, err: int) -> None:
    """Fork the command, and answer with its exit code; kill it when the test process wants no answer any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=answers_fd) as answers:
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(request, out, err)
        for fd in (request, out, err):
            os.close(fd)
        ended = os.pidfd_open(pid)
        readable, _, _ = select.select([ended, answers.fileno()], [], [])
        if ended not in readable:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        answers.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(request: int, out: int, err: int) -> NoReturn:
    """Be the command; never returns."""
    os.lseek(request, 0, os.SEEK_SET)
    with os.fdopen(request, "rb") as body:
        given = json.load(body)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        setattr(sys, ("stdin", "stdout", "stderr")[number], os.fdopen(number, mode, closefd=False))
    os.environ.clear()
    os.environ.update(given["environ"])
    os.chdir(given["cwd"])
    entry = importlib.import_module("vpctl.__main__")
    sys.modules["__main__"] = entry  # `python -m vpctl` is what a usage error calls us
    sys.argv = [str(entry.__file__), *given["words"]]
    try:
        entry.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _import_all() -> None:
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for package in WITH:
        module = importlib.import_module(f"vpctl.{package}")
        for found in pkgutil.walk_packages(module.__path__, f"vpctl.{package}."):
            importlib.import_module(found.name)
    for name in ("asyncssh", "rich.console", "rich.table", "typer"):
        importlib.import_module(name)
    importlib.import_module("vpctl.cli.app").build_app()


if __name__ == "__main__":
    _import_all()
    serve(socket.socket(fileno=int(sys.argv[1])))
