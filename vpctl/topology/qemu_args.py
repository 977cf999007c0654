"""Which of a user's own arguments for QEMU would break what vpctl relies on; the names are those of QEMU 7.2 to 11.1.

Refused is what works against vpctl without a word: QEMU takes it, and a VM is then started twice, never, or without
the fault being seen. What QEMU itself refuses is left to QEMU, whose own message is in the error of the boot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why an argument is refused, and what to do instead; `place` is its position in the list."""

    place: int
    word: str
    reason: str
    hint: str


_LEAVE_OUT = "leave it out"

_ALWAYS: Mapping[str, tuple[str, str]] = {
    "-daemonize": ("QEMU would leave the process that vpctl watches, and run on after `down`", _LEAVE_OUT),
    "-S": ("the guest would never start", "`vpctl qmp VM stop` pauses a guest that runs"),
    "-preconfig": ("the guest would never start", _LEAVE_OUT),
    "-incoming": ("QEMU would wait for a migration instead of booting the guest", _LEAVE_OUT),
    "-loadvm": ("the guest would go on with an old state, of which the supervisor knows nothing", _LEAVE_OUT),
    "-no-shutdown": ("QEMU would stay, paused, when its guest powers off", _LEAVE_OUT),
    "-no-reboot": ("vpctl decides what a reboot does", _LEAVE_OUT),
    "-sandbox": ("vpctl confines QEMU itself", _LEAVE_OUT),
    "-qmp": ("a VM has its QMP sockets already", "`vpctl qmp VM COMMAND`, or the socket in `vpctl status -f json`"),
    "-qmp-pretty": (
        "a VM has its QMP sockets already",
        "`vpctl qmp VM COMMAND`, or the socket in `vpctl status -f json`",
    ),
    "-chroot": ("QEMU would not find its sockets and files any more", _LEAVE_OUT),
    "-runas": ("the supervisor could not look at QEMU any more", "run vpctl as that user"),
    "-run-with": ("vpctl decides as which process QEMU runs, and how long", _LEAVE_OUT),
    "-async-teardown": ("a process that vpctl does not watch would keep the guest's memory", _LEAVE_OUT),
    "-name": ("vpctl finds the vCPUs by the names that it has QEMU give to its threads", _LEAVE_OUT),
    "-accel": ("vpctl chooses what is proven to work", "`accelerator: kvm` or `tcg`"),
    "-enable-kvm": ("vpctl chooses what is proven to work", "`accelerator: kvm`"),
    "-kernel": ("vpctl boots the VM's image", "`image: {kernel: …}`"),
    "-initrd": ("vpctl boots the VM's image", "`image: {kernel: …, initrd: …}`"),
    "-append": ("vpctl boots the VM's image", "`kernel_args: …`"),
    "-no-acpi": ("links are plugged and unplugged by ACPI", _LEAVE_OUT),
    "-readconfig": ("the file could hold what is refused here", "give its options one by one"),
    "-version": ("QEMU would print something and end", _LEAVE_OUT),
    "-help": ("QEMU would print something and end", _LEAVE_OUT),
    "-h": ("QEMU would print something and end", _LEAVE_OUT),
}
"""Options that are refused whatever their value."""


def _machine(keys: Mapping[str, str]) -> tuple[str, str] | None:
    if "" in keys or "type" in keys:
        return "the machine's type has a key of its own", "`machine: q35` or `pc`; its properties may be given here"
    if "accel" in keys:
        return _ALWAYS["-accel"]
    if "memory-backend" in keys:
        return "vpctl gives the VM its memory", "`memory: …`"
    if keys.get("acpi") in ("off", "no", "false"):
        return _ALWAYS["-no-acpi"]
    return None


def _cpus(keys: Mapping[str, str]) -> tuple[str, str] | None:
    if {"", "cpus", "maxcpus"} & keys.keys():
        return "the number of CPUs has a key of its own", "`cpus: N`; sockets, cores and threads may be given here"
    return None


def _memory(keys: Mapping[str, str]) -> tuple[str, str] | None:
    return ("the size of the memory has a key of its own", "`memory: …`") if {"", "size"} & keys.keys() else None


def _action(keys: Mapping[str, str]) -> tuple[str, str] | None:
    if keys.keys() - {"watchdog"}:
        return "vpctl tells faults from one another by what QEMU does then", "`watchdog=…` alone may be given here"
    return None


def _character_device(keys: Mapping[str, str]) -> tuple[str, str] | None:
    words = [word.removeprefix("mon:") for word in keys]
    if keys.get("") in ("stdio", "mon:stdio") or "stdio" in words:
        return "a VM has no terminal", "`vpctl console VM`, or a `socket` or `file`"
    listens = keys.get("server", "off") in ("", "on", "yes", "true")
    waits = "nowait" not in keys and keys.get("wait", "on") in ("", "on", "yes", "true")
    if listens and waits and "server" in keys:
        return "QEMU would wait for a client before the guest runs", "`server=on,wait=off`"
    return None


_BY_VALUE: Mapping[str, Callable[[Mapping[str, str]], tuple[str, str] | None]] = {
    "-machine": _machine,
    "-M": _machine,
    "-smp": _cpus,
    "-m": _memory,
    "-action": _action,
    "-chardev": _character_device,
    "-serial": _character_device,
    "-monitor": _character_device,
    "-parallel": _character_device,
    "-debugcon": _character_device,
    "-gdb": _character_device,
}
"""Options of which only some values are refused; each is given what `_keys` makes of the value."""


def refused(args: Sequence[str]) -> Iterator[Refusal]:
    """Yield the arguments that break what vpctl relies on, in order."""
    for place, word in enumerate(args):
        option = word[1:] if word.startswith("--") else word  # QEMU takes both
        why = _ALWAYS.get(option)
        if option in _BY_VALUE and place + 1 < len(args):
            why = _BY_VALUE[option](_keys(args[place + 1]))
            word = f"{word} {args[place + 1]}"
        if why is not None:
            yield Refusal(place=place, word=word, reason=why[0], hint=why[1])


def refused_in_command(words: Sequence[str]) -> Iterator[Refusal]:
    """Yield what is refused in the command that starts QEMU; `place` counts from its first word.

    Only what follows QEMU itself is looked at: what stands before is a loader's or a wrapper's, whose `-m` or `-S`
    means something else. A QEMU that is called quite differently is not recognised.
    """
    first = next((place for place, word in enumerate(words) if _QEMU.fullmatch(word.rpartition("/")[2])), len(words))
    for found in refused(words[first + 1 :]):
        yield replace(found, place=first + 1 + found.place)


_QEMU = re.compile(r"qemu-system-\S+|qemu-kvm|kvm")


def _keys(value: str) -> dict[str, str]:
    """Split `first,key=value,…` (a comma of a value is doubled); the first, if it has no key, stands under ""."""
    keys: dict[str, str] = {}
    for number, part in enumerate(re.split(r"(?<!,),(?!,)", value)):
        key, is_pair, text = part.partition("=")
        if number == 0 and not is_pair:
            keys[""] = part
        else:
            keys[key] = text
    return keys
