"""What a topology file says, key by key: structure, types and ranges; the JSON Schema comes from here too.

Only `load`, `check`, `resolve` and `schema` import this: whoever works with a loaded topology needs no pydantic.
Rules that need more than one value stand in `check`.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from vpctl.topology import values
from vpctl.topology.values import WrongValueError

OWN_IMAGE = "<own image>"
"""How pydantic names the branch of `image` that is a mapping; no key of a file looks like it."""
BUILT_IMAGE = "<built image>"
SUBNET = r"[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}"
USER = "[a-z_][a-z0-9_-]{0,31}"


def _one_line(value: str) -> str:
    """Fold the lines of a block scalar: what a command line or a path takes has none."""
    return " ".join(value.split("\n")).strip()


def _arguments(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise WrongValueError(f"cannot be split into arguments: {error}".lower(), "quote it as in a shell") from error


def _image_branch(value: object) -> str:
    return OWN_IMAGE if isinstance(value, dict) else BUILT_IMAGE


def _schema(pattern: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern})$", **more})


SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^({values.SIZE})$"}]
}
MEMORY_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": values.SMALLEST_MEMORY, "maximum": values.LARGEST_MEMORY},
        {"type": "string", "pattern": f"^({values.SIZE})$"},
    ]
}

Version = Annotated[int, PlainValidator(values.version), WithJsonSchema({"const": values.VERSION})]
Name = Annotated[str, PlainValidator(values.name), _schema(values.NAME)]
VmName = Annotated[
    str,
    PlainValidator(values.vm_name),
    _schema(values.VM_NAME, **{"not": {"enum": list(values.RESERVED_VM_NAMES)}}),
]
LinkName = Annotated[
    str,
    PlainValidator(values.link_name),
    _schema(values.LINK_NAME, **{"not": {"enum": list(values.RESERVED_LINK_NAMES)}}),
]
Memory = Annotated[int, PlainValidator(values.memory), WithJsonSchema(MEMORY_SCHEMA)]
Duration = Annotated[float, PlainValidator(values.duration), _schema(values.DURATION)]
HeartbeatLimit = Annotated[float, PlainValidator(values.heartbeat), _schema(values.HEARTBEAT)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Line = Annotated[str, Field(strict=True), BeforeValidator(lambda v: _one_line(v) if isinstance(v, str) else v)]
Arguments = Annotated[
    list[Annotated[str, Field(strict=True)]],
    BeforeValidator(_arguments),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Strict(BaseModel):
    """A mapping that knows its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HealthRaw(Strict):
    """When a VM counts as hung."""

    heartbeat: HeartbeatLimit = Field(
        default=10.0,
        description="silence of the guest's heartbeat, one beat a second, after which it is hung; at least 3s",
    )
    qmp_timeout: Duration = Field(default=10.0, description="time that QEMU has to answer a QMP command")
    retries: int = Field(default=3, strict=True, ge=0, le=100, description="attempts at a recovery, one at least")
    backoff: Duration = Field(default=2.0, description="pause before the second attempt; doubles with each")


class ImageRaw(Strict):
    """A kernel, initrd and disk of the user's own; relative paths start at the file's directory."""

    kernel: Text = Field(description="kernel image (bzImage)")
    initrd: Text | None = Field(default=None, description="initial RAM disk")
    disk: Text | None = Field(default=None, description="root disk, opened as a throw-away overlay")
    ssh_user: Annotated[str, Field(strict=True, pattern=f"^{USER}$")] = Field(
        default="root", description="user to log in as"
    )
    ssh_key: Text | None = Field(default=None, description="private key that the image accepts; default: the run's")


Image = Annotated[
    Annotated[str, Field(strict=True), Tag(BUILT_IMAGE)] | Annotated[ImageRaw, Tag(OWN_IMAGE)],
    Discriminator(_image_branch),
]


class VmRaw(Strict):
    """One virtual machine."""

    image: Image = Field(default="micro", description="a built image by name, or a mapping: the user's own kernel")
    memory: Memory = Field(default=256 << 20, description="RAM: bytes, or a number with K, M or G (of 1024)")
    cpus: int = Field(default=1, strict=True, ge=1, le=255, description="virtual CPUs")
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="auto: KVM where it is proven to work, otherwise TCG"
    )
    machine: Literal["q35", "pc"] = Field(default="q35", description="QEMU machine type")
    qemu: Text | None = Field(default=None, description="QEMU binary: a path, or a name on PATH")
    qemu_args: Arguments = Field(default=[], description="further arguments for QEMU: a list, or a shell-like string")
    kernel_args: Line = Field(default="", description="appended to the kernel's command line")
    health: HealthRaw = Field(default=HealthRaw(), description="when the VM counts as hung")


class RecoveryRaw(Strict):
    """How a link is repaired."""

    mode: Literal["auto", "manual"] = Field(default="auto", description="manual: only `vpctl recover` repairs")
    policy: Annotated[str, Field(strict=True)] | None = Field(
        default=None, description="how the survivor's side is repaired; default: the kind's first policy"
    )
    on_stuck: Literal["fail", "reset-survivor"] = Field(
        default="fail", description="what to do when the survivor never lets go of the device"
    )


class LinkRaw(BaseModel):
    """A link between two VMs."""

    # Keys that only some kinds know arrive as extras; `check` judges them.
    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Annotated[str, Field(strict=True)] = Field(description="kind of link")
    endpoints: list[Annotated[str, Field(strict=True)]] = Field(
        min_length=2,
        max_length=2,
        description="the two VMs; the first gets the subnet's first address",
        json_schema_extra={"uniqueItems": True},
    )
    subnet: Annotated[str, Field(strict=True, pattern=f"^{SUBNET}$")] | None = Field(
        default=None, description="IPv4 subnet such as 10.77.0.0/30; default: chosen, shown by `vpctl plan`"
    )
    queues: int = Field(default=1, strict=True, ge=1, description="queue pairs")
    mtu: int = Field(default=1500, strict=True, ge=68, le=65535, description="MTU of the interface at both ends")
    recovery: RecoveryRaw = Field(default=RecoveryRaw(), description="how the link is repaired")


class FileRaw(Strict):
    """A topology file, version 1."""

    version: Version = Field(description="version of this format")
    name: Name = Field(description="name of the topology")
    defaults: VmRaw | None = Field(default=None, description="values for every VM that does not give its own")
    vms: dict[VmName, VmRaw | None] = Field(min_length=1, description="the virtual machines by name")
    links: dict[LinkName, LinkRaw] | None = Field(default=None, description="the links by interface name")


class LinkDraft(LinkRaw):
    """A link whose broken keys were taken out: `kind` may be "", `endpoints` empty."""

    kind: str = ""
    endpoints: list[str] = Field(default_factory=list)


class FileDraft(FileRaw):
    """What remains of a file when everything broken was taken out, so that the rules see the rest."""

    version: int = 1
    name: str = "unnamed"
    vms: dict[VmName, VmRaw | None] = Field(default_factory=dict)
    links: dict[LinkName, LinkDraft] | None = None  # type: ignore[assignment]  # a draft is a link to every reader
