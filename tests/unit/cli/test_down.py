"""What `down` removes, and what it never touches: whatever is given as a name, and whatever lies in its roots."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.broker import broker_process, made
from tests.made import made_run, made_topology
from tests.unit.cli.running import context, made_running
from vpctl.cli import choose, down
from vpctl.client.running import launching
from vpctl.errors import HostError, UsageError, VpctlError
from vpctl.host_identity import this_host
from vpctl.plan.run import run_to_json
from vpctl.process import running
from vpctl.rundir import OWNER, Directories, Owner, RunDir, read_owner, write_json

FOREIGN = ("notes.txt", "foreign/file", "foreign/broker.lock", "pair/processes.json", "empty/")


@contextmanager
def shared_roots() -> Iterator[tuple[Directories, list[Path]]]:
    """Roots of the user's own in which other things lie, and beside which more does; yields all of those paths."""
    with tempfile.TemporaryDirectory(dir="/tmp") as text:
        base = Path(text)
        roots = Directories(run=base / "run", state=base / "state", cache=base / "cache")
        kept = [base / "precious"]
        for root in (roots.run, roots.state):
            root.mkdir(mode=0o700)
            kept.append(root)
            for name in FOREIGN:
                path = root / name
                (path if name.endswith("/") else path.parent).mkdir(mode=0o700, exist_ok=True)
                if not name.endswith("/"):
                    path.write_text("kept")
                kept.append(path)
        kept[0].mkdir()
        yield roots, kept


def argument() -> st.SearchStrategy[str]:
    """Return what the kernel passes as an argument: bytes without a NUL, as Python reads them."""
    words = st.lists(
        st.sampled_from(["..", ".", "/", "pair", "foreign", "empty", "x", ".yaml", "~", "*"]), max_size=5
    )
    return st.one_of(words.map("".join), st.binary(max_size=12).map(lambda b: os.fsdecode(b.replace(b"\0", b""))))


@given(text=argument())
@example(text="..")
@example(text=".")
@example(text="")
@example(text="../x")
@example(text="../run/foreign")
@example(text="foreign")
@example(text="empty")
@example(text="pair")
@example(text="/")
async def test_no_name_makes_down_touch_what_is_not_vpctls(text: str) -> None:
    for words in ({"name": text}, {"topology": text}):
        with shared_roots() as (roots, kept):
            try:
                await down.down(context(roots, words.get("topology")), words.get("name"))
            except VpctlError as error:
                assert isinstance(error, UsageError)
            assert [path for path in kept if not path.exists()] == []
            assert sorted(
                path for root in (roots.run, roots.state) for path in root.rglob("*") if path.is_file()
            ) == [path for path in sorted(kept) if path.is_file()]


@pytest.mark.parametrize("every", [False, True])
async def test_down_of_everything_leaves_foreign_directories_and_the_users_roots(every: bool) -> None:
    with shared_roots() as (roots, kept):
        own = roots.topology("own")
        own.claim()
        await down.down(context(roots), every=every)
        assert [path for path in kept if not path.exists()] == []
        assert not own.run.exists()
        assert not own.state.exists()


@pytest.mark.parametrize("text", ["..", ".", "../x", "a b", "Pair", "-", "x" * 32, "", "pair\n"])
def test_what_cannot_be_a_name_is_a_mistake_of_usage(directories: Directories, text: str) -> None:
    for ask in (choose.topology, lambda where: down.names(where, None, every=False)):
        with pytest.raises(UsageError, match="cannot be the name of a topology"):
            ask(context(directories, text))
    with pytest.raises(UsageError):
        directories.topology(text)


async def test_a_link_in_place_of_a_directory_is_not_followed(directories: Directories, tmp_path: Path) -> None:
    real = made(directories, "real")
    (tmp_path / "pair").mkdir(mode=0o700)
    write_json(tmp_path / "pair" / OWNER, replace(read_owner_of(real), topology="pair").as_json())
    directories.topology("pair").state.symlink_to(tmp_path / "pair")
    await down.down(context(directories), "pair")
    assert (tmp_path / "pair" / OWNER).exists()


def read_owner_of(rundir: RunDir) -> Owner:
    owner = read_owner(rundir.state)
    assert owner is not None
    return owner


async def test_a_copy_under_another_name_is_not_taken_for_a_topology(directories: Directories) -> None:
    rundir = made(directories)
    copy = directories.state / "pair-before"
    copy.mkdir(mode=0o700)
    (copy / OWNER).write_bytes((rundir.state / OWNER).read_bytes())
    assert directories.topologies() == ["pair"]
    await down.down(context(directories), "pair-before")
    assert copy.exists()


# Section: a file in place of a name


TEXT = "version: 1\nname: pair\nvms: {vm1: {}}\n"


def started(directories: Directories, name: str, file: Path) -> RunDir:
    rundir = made(directories, name)
    run = made_run(made_topology(name=name, vms=["vm1"]), source=str(file))
    write_json(rundir.spec, run_to_json(run))
    return rundir


async def test_down_of_a_file_means_the_topology_that_the_file_is_of(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for given_ in ("small.yaml", "./small.yaml", str(file)):
        rundir = started(directories, "pair", file)
        with broker_process(rundir) as broker:
            assert choose.topology(context(directories), given_).name == "pair"
            result = await down.down(context(directories), given_)
            broker.wait()
        assert result.data == {"schema_version": 1, "stopped": ["pair"]}
        assert (await down.down(context(directories), given_)).data == {"schema_version": 1, "stopped": []}


def test_a_file_that_says_something_else_by_now_means_what_was_started_from_it(
    directories: Directories, tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    started(directories, "pair", file)
    for text in (TEXT.replace("pair", "other"), "spoilt", None):
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        assert choose.named(context(directories), str(file)) == "pair"
    started(directories, "twin", file)
    with pytest.raises(UsageError, match="cannot read"):
        choose.named(context(directories), str(file))
    file.write_text(TEXT.replace("pair", "other"))
    with pytest.raises(UsageError, match="2 topologies were started from") as caught:
        choose.named(context(directories), str(file))
    assert caught.value.hint == "name one of `pair`, `twin`"
    file.write_text(TEXT)
    assert choose.named(context(directories), str(file)) == "pair"


def test_a_file_that_is_not_there_is_told(directories: Directories, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.yaml"):
        choose.named(context(directories), str(tmp_path / "none.yaml"))


# Section: other hosts


def given_to_another_host(rundir: RunDir, *, same_boot: bool = False) -> None:
    """Write the record of a topology as another host, or another container of this one, would have."""
    ours = this_host()
    if same_boot:
        other = replace(ours, name="box", pid_namespace=ours.pid_namespace + 1)
    else:
        other = replace(ours, name="node-a", machine_id="a" * 32, boot_id="b" * 36)
    for directory in (rundir.run, rundir.state):
        if (owner := read_owner(directory)) is not None:
            write_json(directory / OWNER, replace(owner, host=other).as_json())


@pytest.mark.parametrize("same_boot", [False, True])
async def test_what_another_host_has_written_is_refused_and_stays(directories: Directories, same_boot: bool) -> None:
    rundir = made(directories)
    rundir.remove_run()
    rundir.journal.write_text("{}\n")
    given_to_another_host(rundir, same_boot=same_boot)
    before = sorted(rundir.state.iterdir())
    assert directories.topologies() == []
    assert (await down.down(context(directories), every=True)).data == {"schema_version": 1, "stopped": []}
    await down.down(context(directories))
    with pytest.raises(HostError, match=r"`pair` belongs to .*(node-a|another container)") as caught:
        await down.down(context(directories), "pair")
    assert str(rundir.state) in (caught.value.hint or "")
    with pytest.raises(HostError):
        rundir.claim()
    assert sorted(rundir.state.iterdir()) == before


async def test_a_reboot_of_this_host_is_no_other_host(directories: Directories) -> None:
    rundir = made(directories)
    if not this_host().machine_id and this_host().name in ("", "localhost"):
        pytest.skip("this host has neither a machine id nor a name")
    host = replace(this_host(), boot_id="b" * 36, pid_namespace=1)
    for directory in (rundir.run, rundir.state):
        write_json(directory / OWNER, replace(read_owner_of(rundir), host=host).as_json())
    assert directories.topologies() == ["pair"]
    await down.down(context(directories), "pair")
    assert not rundir.run.exists()
    assert not rundir.state.exists()


# Section: waiting for another command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_down_that_waits_for_another_command(
    directories: Directories, number: signal.Signals
) -> None:
    made(directories)
    async with launching(directories, "pair") as rundir:
        argv = [sys.executable, "-m", "vpctl", "down", "pair"]
        async with running(argv, stdin=None) as waiting:
            assert waiting.stdout is not None
            said = (await waiting.stdout.readline()).decode()
            assert said.startswith(f"pair: waiting for process {os.getpid()} ("), said
            waiting.send_signal(number)
            rest = (await waiting.stdout.read()).decode()
            assert await waiting.wait() == 130, rest
        assert "Traceback" not in rest
        assert rundir.state.exists()
    assert directories.topologies() == ["pair"]


def test_down_stops_the_one_that_runs_or_asks_which(directories: Directories) -> None:
    where = context(directories)
    assert down.names(where, None, every=False) == []
    assert down.names(where, "gone", every=False) == ["gone"]
    made(directories, "left-over")
    assert down.names(where, None, every=False) == ["left-over"]
    made_running(directories, "one", "vm1")
    assert down.names(where, None, every=False) == ["one"]
    made_running(directories, "two", "vm1")
    with pytest.raises(UsageError, match="2 topologies run"):
        down.names(where, None, every=False)
    assert down.names(where, None, every=True) == ["left-over", "one", "two"]
    with pytest.raises(UsageError, match="exclude each other"):
        down.names(where, "one", every=True)
