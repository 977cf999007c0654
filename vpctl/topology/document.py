"""Strict YAML with positions: text to a tree of nodes, `${NAME}` expanded, nothing guessed.

Scalars are resolved by the YAML 1.2 core schema, so `on`, `no` and `1:30` are strings and `010` is ten. Anchors,
aliases, tags, merge keys and further documents are refused: a topology needs none, and they are how a small file
becomes a large one. The parser's events are read one by one, so depth is limited before anything recurses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from vpctl.topology.problems import Mark, Path, Problems, quoted

LARGEST_FILE = 1 << 20
DEEPEST = 16
LONGEST_NUMBER = 60

Scalar = None | bool | int | float | str
Plain = Scalar | list["Plain"] | dict[str, "Plain"]

# libyaml where there is one: it is ten times as fast, which a hostile file of 1 MiB makes felt.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = re.compile(r"(?:|~|null|Null|NULL)")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")
_INVISIBLE = re.compile("[\x80-\xa0\xad\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]")
"""Blanks that are none to YAML, and what is not seen at all: a copy from a web page or a chat brings them along."""
_BREAKS = "\x85\u2028\u2029"
"""Line breaks of YAML 1.1, which libyaml still takes for such; in YAML 1.2 they are characters like others."""
_STAND_INS = "\U0010fff0\U0010fff1\U0010fff2"
"""What stands for them while libyaml reads: of a private area, so that no file of text has them."""
_HIDING = str.maketrans(_BREAKS, _STAND_INS)
_SHOWING = str.maketrans(_STAND_INS, _BREAKS)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

START = Mark(line=1, column=1)
NO_ALIASES = "write it out; `defaults:` applies to every VM"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A value and where it stands; a mapping also knows where each of its keys stands, broken values' too."""

    mark: Mark
    value: Scalar | list[Node] | dict[str, Node]
    keys: Mapping[str, Mark] = field(default_factory=dict)

    def plain(self) -> Plain:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, path: Path) -> Node | None:
        """Return the node at a path."""
        node: Node | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node

    def child(self, part: str | int) -> Node | None:
        """Return the value of a key, or the item at a position."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None

    def mark_of(self, path: Path) -> Mark:
        """Return the place of the value at a path, or of the nearest thing above it that the file has."""
        node, mark = self, self.mark
        for part in path:
            child = node.child(part)
            if child is None:
                return node.keys.get(part, mark) if isinstance(part, str) else mark
            node, mark = child, child.mark
        return mark

    def mark_of_key(self, path: Path) -> Mark:
        """Return the place of the key that a path ends in; of the value where it is no key."""
        owner = self.find(path[:-1]) if path else None
        key = path[-1] if path else None
        if owner is not None and isinstance(key, str) and key in owner.keys:
            return owner.keys[key]
        return self.mark_of(path)


def parse(text: str | bytes, *, problems: Problems, environ: Mapping[str, str]) -> Node | None:
    """Return the tree of the one document in `text`; what is wrong with it goes to `problems`.

    None where there is no document at all. Broken values are missing from the tree.
    """
    decoded = _decode(text, problems)
    if decoded is None:
        return None
    composer = _Composer(decoded, problems, environ)
    try:
        return composer.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(line=mark.line + 1, column=mark.column + 1) if mark is not None else START
        found = _invisible_near(decoded, place, error.context_mark)
        if found is not None:
            problems.add((), _place(decoded, found.start()), *_invisible_problem(found[0]))
            return None
        what = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add((), place, f"not valid YAML: {what}", _syntax_hint(decoded, place, error.context_mark))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The pure-Python scanner lets a few through that libyaml reports by place, for instance "\UFFFFFFFF".
        problems.add((), START, f"not valid YAML: {str(error).splitlines()[0]}")
    except _TooDeepError as error:
        problems.add((), error.mark, f"nested deeper than {DEEPEST} levels", "a topology needs five")
    return None


def resolve(text: str) -> Scalar:
    """Return what a plain scalar means by YAML 1.2's core schema; what is too large for a number stays text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if _FLOAT.fullmatch(text) and len(text) < LONGEST_NUMBER:
        return float(text)
    return text


class SpelledFloat(float):
    """A number that remembers how the file spells it: `1e3`."""

    text: str


class SpelledInt(int):
    """A whole number that keeps how it was spelled, such as `0x10` or `010`."""

    text: str


def spelled(text: str) -> Scalar:
    """Return what a plain scalar means, a number with its spelling where that is not Python's."""
    value = resolve(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or str(value) == text:
        return value
    number = SpelledInt(value) if isinstance(value, int) else SpelledFloat(value)
    number.text = text
    return number


class _TooDeepError(Exception):
    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


def _decode(text: str | bytes, problems: Problems) -> str | None:
    """Return the text of a file, or None with a problem: too large, not UTF-8, binary."""
    if len(text) > LARGEST_FILE:
        problems.add((), START, f"larger than {LARGEST_FILE >> 20} MiB", "this is not a topology file")
        return None
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig", errors="replace")
        byte = error.object[error.start]
        problems.add(
            (), _place(before, len(before)), f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8 text"
        )
        return None
    bad = _UNPRINTABLE.search(decoded)
    if bad is not None:
        place = _place(decoded, bad.start())
        problems.add((), place, f"character U+{ord(bad[0]):04X} is not text", "this looks like a binary file")
        return None
    return decoded.removeprefix("\ufeff")


def _place(text: str, index: int) -> Mark:
    """Return line and column of a position in a text."""
    before = text[:index]
    return Mark(line=before.count("\n") + 1, column=index - before.rfind("\n"))


def _invisible_near(text: str, place: Mark, context: yaml.Mark | None) -> re.Match[str] | None:
    """Return the first character that is not seen in the lines that broke the syntax."""
    lines = [line + "\n" for line in text.split("\n")]
    first = min(context.line if context is not None else place.line - 1, place.line - 1)
    begin = sum(map(len, lines[:first]))
    return _INVISIBLE.search(text, begin, begin + sum(map(len, lines[first : place.line])))


def _invisible_problem(character: str) -> tuple[str, str]:
    """Return message and hint for a character that is not seen."""
    name = unicodedata.name(character, "control character").lower()
    message = f"{name} (U+{ord(character):04X}), which is not seen and is no blank to YAML"
    return message, "write an ordinary space, or nothing; quotes keep it"


def _syntax_hint(text: str, place: Mark, context: yaml.Mark | None) -> str:
    """Guess what broke the syntax from the lines in question: two classics, and where to look for the rest."""
    lines = text.split("\n")
    first = context.line if context is not None else place.line - 1
    suspects = "\n".join(lines[min(first, place.line - 1) : place.line])
    if "\t" in suspects:
        return "YAML is indented with spaces, not with tabs"
    if "${" in suspects:
        return 'inside `{…}` and `[…]` a reference needs quotes: `"${NAME}"`'
    return "look, there or just before, for a bracket or quote that is not closed, and for lines that are not in line"


def _mark_of(event: yaml.Event) -> Mark:
    assert event.start_mark is not None
    return Mark(line=event.start_mark.line + 1, column=event.start_mark.column + 1)


class _Composer:
    """Builds nodes from the parser's events; None stands for a value that was refused."""

    def __init__(self, text: str, problems: Problems, environ: Mapping[str, str]) -> None:
        self._text = text
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text.translate(_HIDING), Loader=LOADER))
        self._problems = problems
        self._environ = environ

    def document(self) -> Node | None:
        """Return the root of the first document and report any other."""
        root: Node | None = None
        documents = 0
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            documents += 1
            if documents > 1:
                self._problems.add(
                    (), _mark_of(event), "a second document", "one file holds one topology: drop `---`"
                )
                return root
            root = self._node(next(self._events), ())
        return root

    def _node(self, event: yaml.Event, path: Path) -> Node | None:
        mark = _mark_of(event)
        if len(path) > DEEPEST:
            raise _TooDeepError(mark)
        if isinstance(event, yaml.AliasEvent):
            self._problems.add(
                path, mark, f"aliases ({quoted('*' + str(event.anchor))}) are not supported", NO_ALIASES
            )
            return None
        assert isinstance(event, yaml.NodeEvent)
        refused = self._refuse_properties(event, path, mark)
        node: Node | None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(mark, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, path)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            node = None if refused else self._scalar(event, mark, path)
        return None if refused else node

    def _refuse_properties(self, event: yaml.NodeEvent, path: Path, mark: Mark) -> bool:
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._problems.add(path, mark, f"tags ({quoted(tag)}) are not supported", "drop it; quotes make a string")
        if event.anchor is not None:
            anchor = quoted("&" + event.anchor)
            self._problems.add(path, mark, f"anchors ({anchor}) are not supported", NO_ALIASES)
        return tag is not None or event.anchor is not None

    def _sequence(self, mark: Mark, path: Path) -> Node | None:
        items: list[Node | None] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        good = [item for item in items if item is not None]
        # A list with a hole would count wrongly: it is broken as a whole.
        return Node(mark=mark, value=good) if len(good) == len(items) else None

    def _mapping(self, mark: Mark, path: Path) -> Node:
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path, keys)
            value = self._node(next(self._events), (*path, key if key is not None else 0))
            if key is not None and value is not None:
                entries[key] = value
        return Node(mark=mark, value=entries, keys=keys)

    def _key(self, event: yaml.Event, path: Path, keys: dict[str, Mark]) -> str | None:
        """Return a key that is a new name; otherwise report it and return None."""
        mark = _mark_of(event)
        if isinstance(event, yaml.ScalarEvent):
            event.value = event.value.translate(_SHOWING)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, (*path, 0))
            self._problems.add(path, mark, "a key must be a name")
            return None
        if event.value == "<<" and not event.style:
            self._problems.add((*path, "<<"), mark, "merge keys (`<<`) are not supported", NO_ALIASES)
            return None
        if self._refuse_properties(event, path, mark):
            return None
        if event.value in keys:
            message = f"key {quoted(event.value)} is given twice"
            self._problems.add((*path, event.value), mark, message, f"first on line {keys[event.value].line}")
            return None
        keys[event.value] = mark
        if self._has_invisible(event, event.value, path):
            return None
        return str(event.value)

    def _has_invisible(self, event: yaml.ScalarEvent, text: str, path: Path) -> bool:
        """Report what is not seen in an unquoted scalar, at its own place; quotes say that it is meant."""
        if event.style or _INVISIBLE.search(text) is None:
            return False
        assert event.start_mark is not None
        found = _INVISIBLE.search(self._text, event.start_mark.index)
        assert found is not None
        self._problems.add(path, _place(self._text, found.start()), *_invisible_problem(found[0]))
        return True

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark, path: Path) -> Node | None:
        value = event.value.translate(_SHOWING)
        if self._has_invisible(event, value, path):
            return None
        text = self._expand(value, mark, path)
        if text is None:
            return None
        bad = _UNPRINTABLE.search(text)
        if bad is not None:
            self._problems.add(path, mark, f"character U+{ord(bad[0]):04X} is not text")
            return None
        # Quotes make a string; a plain scalar is resolved after expansion, so that `cpus: ${CPUS:-2}` is a number.
        return Node(mark=mark, value=text if event.style else spelled(text))

    def _expand(self, text: str, mark: Mark, path: Path) -> str | None:
        """Expand `${NAME}`, `${NAME:-default}` (unset or empty, as in a shell) and `$$`; None if one cannot be."""
        failed = False

        def replace(match: re.Match[str]) -> str:
            nonlocal failed
            if match[0] == "$$":
                return "$"
            name, default = match[1], match[2]
            value = self._environ.get(name, "") if name is not None else ""
            if value or default is not None:
                return value or default
            if name is not None and name in self._environ:
                return ""
            failed = True
            self._problems.add(path, mark, *_reference_problem(name))
            return ""

        expanded = _REFERENCE.sub(replace, text)
        return None if failed else expanded


def _reference_problem(name: str | None) -> tuple[str, str]:
    """Return message and hint for a reference that has no value."""
    if name is None:
        return "`${` does not begin a reference", "write `${NAME}` or `${NAME:-default}`; `$${` is a literal `${`"
    return f"environment variable {quoted(name)} is not set", f"set it, or give a default: `${{{name}:-default}}`"
