"""Load a topology file: every problem of it in one error, or a topology that is complete and meets every rule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from vpctl.topology import document, resolve
from vpctl.topology.check import RULES, TOPOLOGY_RULES, Draft, Finding
from vpctl.topology.document import Node, Plain
from vpctl.topology.explain import broken_paths, explain
from vpctl.topology.model import KindRules, Topology
from vpctl.topology.problems import Path as NodePath
from vpctl.topology.problems import Problems, listed
from vpctl.topology.raw import FileDraft, FileRaw
from vpctl.topology.values import as_name


def load(
    text: str | bytes,
    *,
    file: str,
    kinds: Mapping[str, KindRules],
    environ: Mapping[str, str],
    base: Path,
    images: Collection[str] = ("micro",),
) -> Topology:
    """Return the topology that `text` describes.

    `file` is its name in messages, `kinds` the link kinds there are, `environ` what `${NAME}` is looked up in,
    `base` the directory that relative paths start from, `images` the images that vpctl builds. Does no I/O.
    Raises TopologyError with everything that is wrong, in the order of the file; nothing else, whatever the bytes.
    """
    problems = Problems(file)
    root = document.parse(text, problems=problems, environ=environ)
    if root is None:
        if not problems:
            problems.add((), document.START, "the file is empty", "a topology begins with `version: 1`")
        raise problems.error()
    hints = {
        "name": f"for instance `name: {as_name(Path(file).stem) or 'pair'}`",
        "kind": f"kinds are {listed(kinds)}",
    }
    raw = _structure(root, problems, hints)
    if raw is None:
        raise problems.error()
    vm_node = root.find(("vms",))
    vm_names = list(vm_node.keys) if vm_node is not None else []
    draft = Draft(file=raw, vm_names=dict.fromkeys(vm_names), kinds=kinds, images=images)
    for rule in RULES:
        _note(rule(draft), root, problems)
    topology = _resolved(draft, root, problems, environ, base)
    if problems or topology is None:
        raise problems.error()
    return topology


def _structure(root: Node, problems: Problems, hints: Mapping[str, str]) -> FileRaw | None:
    """Check structure and types; return the sound part of the file, None if there is none."""
    plain = root.plain()
    try:
        return FileRaw.model_validate(plain)
    except ValidationError as error:
        explain(error, root, problems, hints)
        broken = list(broken_paths(error, root))
    for _ in range(document.DEEPEST):
        for path in broken:
            _remove(plain, path)
        try:
            return FileDraft.model_validate(plain)
        except ValidationError as error:
            # Taking something out can leave its owner incomplete: that goes in the next round.
            broken = list(broken_paths(error, root))
    return None  # the root itself is no mapping


def _remove(plain: Plain, path: NodePath) -> None:
    """Take a broken value out: the innermost key of its path goes, so that no list is left with a hole."""
    place: tuple[dict[str, Plain], str] | None = None
    at = plain
    for part in path:
        if isinstance(at, dict) and isinstance(part, str) and part in at:
            place, at = (at, part), at[part]
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            return
    if place is not None:
        del place[0][place[1]]


def _note(findings: Iterator[Finding], root: Node, problems: Problems) -> None:
    for finding in findings:
        mark = root.mark_of_key(finding.path) if finding.at_key else root.mark_of(finding.path)
        problems.add(finding.path, mark, finding.message, finding.hint)
        if problems.full:
            return


def _resolved(
    draft: Draft, root: Node, problems: Problems, environ: Mapping[str, str], base: Path
) -> Topology | None:
    """Resolve what is sound and run the rules that need it resolved; None if there are too many links."""
    vms, links = _sound(draft, problems)
    try:
        topology = resolve.topology(draft, vms=vms, links=links, environ=environ, base=base)
    except resolve.NoFreeSubnetError as error:
        message = f"link `{error.link}`: no subnet is left in `{resolve.POOL}`"
        finding = Finding(path=("links", error.link), message=message, hint="give it a `subnet`", at_key=True)
        _note(iter([finding]), root, problems)
        return None
    for rule in TOPOLOGY_RULES:
        _note(rule(topology, draft.kinds), root, problems)
    return topology


def _sound(draft: Draft, problems: Problems) -> tuple[set[str], set[str]]:
    """Return the VMs and the links that nothing is wrong with."""
    if problems.within(("defaults",)):
        return set(), set()  # they are part of every VM
    vms = {name for name in draft.file.vms if not problems.within(("vms", name))}
    links = {
        name
        for name, link in draft.links()
        if link.endpoints and vms.issuperset(link.endpoints) and not problems.within(("links", name))
    }
    return vms, links
