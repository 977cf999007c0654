"""The keys of a run."""

from __future__ import annotations

import base64
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from tests.fakes.broker import made
from tests.fakes.guest import dropbear_strings
from vpctl.guest.keys import run_keys
from vpctl.rundir import OWNER, Directories, RunDir

MAKE_KEYS = """
import sys
from vpctl.guest.keys import run_keys
from vpctl.rundir import RunDir
print(run_keys(RunDir.from_words(sys.argv[1:])))
"""


def test_the_host_key_is_in_dropbears_form_and_matches_what_is_pinned(rundir: RunDir) -> None:
    keys = run_keys(rundir)
    kind, secret = dropbear_strings(keys.host_key_dropbear)
    assert kind == b"ssh-ed25519"
    assert len(secret) == 64
    public = Ed25519PrivateKey.from_private_bytes(secret[:32]).public_key()
    assert public.public_bytes(Encoding.Raw, PublicFormat.Raw) == secret[32:]
    assert public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == keys.host_public
    name, encoded = keys.host_public.split()
    assert dropbear_strings(base64.b64decode(encoded)) == [name.encode(), secret[32:]]
    assert rundir.known_hosts.read_text() == f"* {keys.host_public}\n"


def test_the_clients_private_key_is_the_public_ones_and_nobody_elses_to_read(rundir: RunDir) -> None:
    keys = run_keys(rundir)
    private = load_ssh_private_key(rundir.identity.read_bytes(), password=None)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert keys.public == f"{public} vpctl-pair"
    assert rundir.identity.stat().st_mode & 0o777 == 0o600


def test_keys_stay_for_the_run_and_are_made_again_if_the_making_was_cut_short(
    rundir: RunDir, directories: Directories
) -> None:
    first = run_keys(rundir)
    assert run_keys(rundir) == first
    rundir.known_hosts.unlink()  # written last
    rundir.identity.unlink()
    assert run_keys(rundir) == first
    assert rundir.identity.exists()
    assert run_keys(made(directories, "other")).host_public != first.host_public


def test_processes_that_make_the_keys_at_once_make_the_same_and_wait_for_none(rundir: RunDir) -> None:
    argv = [sys.executable, "-c", MAKE_KEYS, *rundir.as_words()]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert said == {f"{run_keys(rundir)}\n".encode()}
    load_ssh_private_key(rundir.identity.read_bytes(), None)
    names = {"identity", "identity.pub", "known_hosts", "host_key", "seeds", OWNER}
    assert {path.name for path in rundir.run.iterdir()} == names
    assert (rundir.run / "seeds").stat().st_mode & 0o777 == 0o600
