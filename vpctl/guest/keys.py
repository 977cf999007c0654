"""The keys of one run: a client key and a host key, both ed25519, made afresh for each run and gone with it."""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass

from vpctl.errors import HostError
from vpctl.rundir import RunDir, write_atomic

SEED_BYTES = 32
"""Of an ed25519 private key (RFC 8032)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunKeys:
    """What guests and clients need; the host key is the same for all guests of a run."""

    public: str
    """The client's public key, in authorized_keys form."""
    host_public: str
    """The guests' host key, in known_hosts form (type and base64)."""
    host_key_dropbear: bytes


def run_keys(rundir: RunDir) -> RunKeys:
    """Return the run's keys, making them if there are none yet; HostError if they cannot be written.

    Of two processes that do so at once neither waits for the other: both make the same ones, from the same seeds. The
    client's private key stays in `rundir.identity`.
    """
    host_private = rundir.run / "host_key"
    public, known = rundir.identity.with_suffix(".pub"), rundir.known_hosts
    if not known.exists():
        _make(rundir, _seeds(rundir))
    host_public = known.read_text(encoding="utf-8").split(" ", 1)[1].strip()
    return RunKeys(
        public=public.read_text(encoding="utf-8").strip(),
        host_public=host_public,
        host_key_dropbear=host_private.read_bytes(),
    )


def _seeds(rundir: RunDir) -> bytes:
    """Return what the run's keys are made from: the seeds of the process that was first to write its own down."""
    path, own = rundir.run / "seeds", rundir.run / f".seeds.{new_run_id()}"
    write_atomic(own, os.urandom(2 * SEED_BYTES))
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(own)
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}", hint="see `df` for the disk's space") from error
    finally:
        own.unlink(missing_ok=True)


def _make(rundir: RunDir, seeds: bytes) -> None:
    # Imported here, because only the first start of a run needs it and it costs a tenth of a second.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    seed = seeds[SEED_BYTES:]
    client = Ed25519PrivateKey.from_private_bytes(seeds[:SEED_BYTES])
    host = Ed25519PrivateKey.from_private_bytes(seed)
    private = client.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = client.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    host_public = host.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    write_atomic(rundir.identity, private)
    write_atomic(rundir.identity.with_suffix(".pub"), f"{public} vpctl-{rundir.name}\n")
    point = host.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    write_atomic(rundir.run / "host_key", dropbear_host_key(seed, point))
    # Written last: it is what says that the keys are whole. `*`: guests are told apart by their port alone.
    write_atomic(rundir.known_hosts, f"* {host_public}\n")


def dropbear_host_key(seed: bytes, point: bytes) -> bytes:
    """Return an ed25519 host key as dropbear stores it: two SSH strings, the type and private + public bytes."""

    def string(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    return string(b"ssh-ed25519") + string(seed + point)


def new_run_id() -> str:
    """Return a random word that tells this run from every other."""
    return os.urandom(6).hex()
