"""Where packages come from: the Debian mirror and the proxies that this host's apt is set up with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SUITE = re.compile(
    r"(bullseye|bookworm|trixie|forky|sid|(old)*stable|testing|unstable|rc-buggy)(-updates|-security|/updates)?$"
)
_ARCHIVE_KEYRING = re.compile(r"/debian-archive[^/]*$")
_APT_OPTIONS = re.compile(
    r"^(Acquire::(http|https|ftp)(::|\s)|Acquire::(Check-Valid-Until|Check-Date|Min-ValidTime|Max-ValidTime|Retries"
    r"|ForceIPv4|ForceIPv6|Queue-Mode)\s)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One archive of a sources list: a URI, a suite, and what the list says about trust."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """A Debian archive and, where known, its security archive."""

    main: str
    security: str | None = None
    trusted: bool = False

    def lines(self, release: str, keyring: Path, suites: Iterable[str] = ()) -> list[str]:
        """Return the sources list for a release, and for other suites of the same archive."""
        trust = "trusted=yes" if self.trusted else f"signed-by={keyring}"
        lines = [f"deb [{trust}] {self.main} {suite} main" for suite in (release, f"{release}-updates", *suites)]
        if self.security is not None:
            lines.append(f"deb [{trust}] {self.security} {release}-security main")
        return lines


def parse_list(text: str) -> list[Source]:
    """Read a one-line-style sources list."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match is None:
            continue
        options = dict(option.partition("=")[::2] for option in (match[1] or "").split())
        found.append(
            Source(uri=match[2], suite=match[3], components=tuple(match[4].split()), options=_lowered(options))
        )
    return found


def parse_deb822(text: str) -> list[Source]:
    """Read a deb822-style sources file: stanzas, continued lines, comments."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = _lowered(_stanza_fields(stanza))
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        components = tuple(fields.get("components", "").split())
        found += [
            Source(uri=uri, suite=suite, components=components, options=fields)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def choose(sources: Iterable[Source]) -> Mirror | None:
    """Return the first Debian archive among a host's sources, with its security archive; None where there is none.

    Third parties name their suites like Debian's; what gives them away is a keyring of their own.
    """
    debian = [source for source in sources if _is_debian(source)]
    plain = [source for source in debian if not _is_security(source)]
    security = [source for source in debian if _is_security(source)]
    if not plain:
        return None
    return Mirror(
        main=plain[0].uri,
        security=security[0].uri if security else None,
        trusted=plain[0].options.get("trusted") == "yes",
    )


def host_mirror(etc_apt: Path = Path("/etc/apt")) -> Mirror | None:
    """Return the Debian mirror that this host's apt uses, if it uses one."""
    sources: list[Source] = []
    parts = etc_apt / "sources.list.d"
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        parse = parse_deb822 if path.suffix == ".sources" else parse_list
        sources += [_resolve_mirror_file(source) for source in parse(text)]
    return choose(sources)


def given_mirror(words: str) -> Mirror:
    """Read $VPCTL_DEBIAN_MIRROR: the archive's URL and, after a space, that of the security archive."""
    main, _, security = words.strip().partition(" ")
    return Mirror(main=main, security=security.strip() or None)


def apt_options(dump: str) -> str:
    """Pick from `apt-config dump` what says how this host reaches archives: proxies, certificates, clock checks."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_OPTIONS.match(line))


def _lowered(options: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in options.items()}


def _stanza_fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and name:
            fields[name] += f" {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _is_security(source: Source) -> bool:
    return source.suite.endswith(("-security", "/updates"))


def _is_debian(source: Source) -> bool:
    signed_by = source.options.get("signed-by", "")
    return (
        "main" in source.components
        and _SUITE.match(source.suite) is not None
        and (not signed_by or _ARCHIVE_KEYRING.search(signed_by) is not None)
        and source.uri.split(":")[0] in ("http", "https", "file", "copy", "ftp")
    )


def _resolve_mirror_file(source: Source) -> Source:
    """Take the first address of a `mirror+file:` list, as cloud images have it."""
    if not source.uri.startswith(("mirror+file:", "mirror:file:")):
        return source
    path = Path(source.uri.split(":", 1)[1].removeprefix("file:").replace("//", "/"))
    try:
        uri = path.read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return source
    return Source(uri=uri, suite=source.suite, components=source.components, options=source.options)
