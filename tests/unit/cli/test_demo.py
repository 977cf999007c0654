"""`examples/demo`, with a vpctl that only writes down what it is asked for; and what the README shows of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TYPED = re.compile(r"^\$ (.*)", re.MULTILINE)

VPCTL = r"""#!PYTHON
import json, os, signal, sys
from pathlib import Path

words, here = sys.argv[1:], Path(__file__).parent
with (here / "calls").open("a") as calls:
    print(" ".join(words), file=calls)
told = os.environ.get("TOLD", "")
if words[0] == told:
    if "SIGNAL" in os.environ:
        os.kill(os.getppid(), int(os.environ["SIGNAL"]))
        sys.exit(130)
    sys.exit(5)
if words[0] == "status" and "-q" in words:
    sys.exit(int(os.environ.get("RUNNING", "8")))
elif words[0] == "status" and "json" in words:
    ends = [{"vm": "vm1", "address": "10.0.0.1/30"}, {"vm": "vm2", "address": "10.0.0.2/30"}]
    print(json.dumps({"links": [{"name": "lan0", "endpoints": ends}]}))
elif words[0] == "exec" and "bytes from" in words[-1]:
    answers = here / "answers"
    count = (len(answers.read_text()) if answers.exists() else 0) + (told != "silence")
    answers.write_text("x" * count)
    print(count)
elif words[0] == "events":
    print("nothing of interest" if told == "journal" else "device_add lan0.g2")
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    status: int
    output: str
    calls: list[str]


def demo(tmp_path: Path, told: str = "", *arguments: str, **environ: str) -> Done:
    """Run the demo in a checkout whose vpctl is ours; `told` is what that fails at."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    vpctl = tmp_path / ".venv/bin/vpctl"
    vpctl.parent.mkdir(parents=True)
    vpctl.write_text(VPCTL.replace("PYTHON", sys.executable))
    vpctl.chmod(0o755)
    (vpctl.parent / "python3").symlink_to(sys.executable)
    done = subprocess.run(
        [tmp_path / "examples/demo", *arguments],
        env={**os.environ, "TOLD": told, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        start_new_session=True,
    )
    calls = vpctl.parent / "calls"
    return Done(
        status=done.returncode, output=done.stdout, calls=calls.read_text().splitlines() if calls.exists() else []
    )


def test_it_tells_the_whole_story(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.status == 0, done.output
    verbs = [call.split()[0] for call in done.calls]
    story = ["up", "bench", "crash", "recover", "check", "events", "down"]
    assert [verb for verb in verbs if verb in story] == story
    assert "up examples/vhost-pci.yaml" in done.calls
    assert "crash -t vhost-pci vm1 --how kill" in done.calls
    assert done.calls[-1] == "down vhost-pci"
    assert "error" not in done.output


def test_another_topology_is_stopped_by_its_own_name(tmp_path: Path) -> None:
    done = demo(tmp_path, "", "examples/pair.yaml")
    assert done.status == 0
    assert "up examples/pair.yaml" in done.calls
    assert done.calls[-1] == "down pair"
    assert not [call for call in done.calls if "vhost-pci" in call]


@pytest.mark.parametrize("verb", ["up", "exec", "bench", "crash", "recover", "check", "events", "down"])
def test_any_part_that_fails_fails_it_and_it_is_stopped_all_the_same(tmp_path: Path, verb: str) -> None:
    done = demo(tmp_path, verb)
    assert done.status == (1 if verb == "events" else 5)  # of its pipeline it is grep that fails last
    assert done.calls[-1] == "down vhost-pci"
    assert f"error: the demo did not come to its end (exit code {done.status})" in done.output


def test_a_journal_that_tells_of_nothing_fails_it(tmp_path: Path) -> None:
    done = demo(tmp_path, "journal")
    assert done.status == 1
    assert done.calls[-1] == "down vhost-pci"


def test_a_ping_that_gets_no_answer_fails_it(tmp_path: Path) -> None:
    done = demo(tmp_path, "silence")
    assert done.status == 1
    assert "no answer comes to the ping in vm2" in done.output
    assert done.calls[-1] == "down vhost-pci"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["up", "bench", "recover"])
def test_whatever_ends_it_early_it_is_stopped(tmp_path: Path, verb: str, number: signal.Signals) -> None:
    done = demo(tmp_path, verb, SIGNAL=str(int(number)))
    assert done.status == 128 + number
    assert done.calls[-1] == "down vhost-pci"


def test_what_somebody_else_runs_by_this_name_is_left_alone(tmp_path: Path) -> None:
    done = demo(tmp_path, RUNNING="0")
    assert (done.status, done.calls) == (2, ["status vhost-pci -q"])
    assert "hint: vpctl status vhost-pci" in done.output


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = demo(tmp_path, "", "nowhere.yaml")
    assert (done.status, done.calls) == (2, [])
    assert "error: cannot read nowhere.yaml" in done.output


def test_the_readme_shows_what_it_types(tmp_path: Path) -> None:
    shown = TYPED.findall((ROOT / "README.md").read_text().partition("## Two commands")[0])
    typed = iter(re.sub(r"10\.0\.0\.", "10.77.0.", line) for line in TYPED.findall(demo(tmp_path).output))
    assert shown[0] == "make demo"
    assert [line for line in shown[1:] if line not in typed] == []  # in this order
    assert {"vpctl up examples/vhost-pci.yaml", "vpctl crash vm1 --how kill", "vpctl recover vm1"} <= {*shown}
