"""Which Debian mirror a host's apt is set up with, and what else says how to reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpctl.image.mirror import (
    Mirror,
    Source,
    apt_options,
    choose,
    given_mirror,
    host_mirror,
    parse_deb822,
)

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

DEBIAN_SOURCES = """\
# See the manual
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: trixie trixie-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def write(directory: Path, **files: str) -> Path:
    (directory / "sources.list.d").mkdir()
    for name, text in files.items():
        path = name.replace("__", ".")
        (directory / (path if path == "sources.list" else f"sources.list.d/{path}")).write_text(text)
    return directory


def test_a_deb822_file_is_read_with_continued_lines_and_comments() -> None:
    sources = parse_deb822(DEBIAN_SOURCES)
    assert [(source.uri, source.suite, source.components) for source in sources] == [
        ("http://mirror.test/debian", "trixie", ("main", "contrib")),
        ("http://mirror.test/debian", "trixie-updates", ("main", "contrib")),
        ("http://mirror.test/debian-security", "trixie-security", ("main",)),
    ]


def test_the_mirror_of_another_debian_release_serves_ours(tmp_path: Path) -> None:
    mirror = host_mirror(write(tmp_path, debian__sources=DEBIAN_SOURCES))
    assert mirror == Mirror(main="http://mirror.test/debian", security="http://mirror.test/debian-security")
    assert mirror.lines("bookworm", KEYRING) == [
        f"deb [signed-by={KEYRING}] http://mirror.test/debian bookworm main",
        f"deb [signed-by={KEYRING}] http://mirror.test/debian bookworm-updates main",
        f"deb [signed-by={KEYRING}] http://mirror.test/debian-security bookworm-security main",
    ]
    with_more = mirror.lines("bookworm", KEYRING, ["bookworm-backports"])
    assert f"deb [signed-by={KEYRING}] http://mirror.test/debian bookworm-backports main" in with_more


def test_a_one_line_list_is_read_with_options_and_comments(tmp_path: Path) -> None:
    text = """
    # deb http://no.test/debian bookworm main
    deb-src http://no.test/debian bookworm main
    deb [arch=amd64 trusted=yes] http://mirror.test/d stable main contrib # ours
    """
    assert host_mirror(write(tmp_path, sources__list=text)) == Mirror(main="http://mirror.test/d", trusted=True)


@pytest.mark.parametrize(
    "source",
    [
        Source(uri="http://vendor.test/debian", suite="bookworm", components=("stable",)),
        Source(uri="http://vendor.test/deb", suite="stable", components=("main",), options={"signed-by": "/v.gpg"}),
        Source(uri="http://vendor.test/apt", suite="cloud-sdk-bookworm", components=("main",)),
        Source(uri="http://ubuntu.test/ubuntu", suite="noble", components=("main", "universe")),
        Source(uri="cdrom:[Debian 12]", suite="bookworm", components=("main",)),
    ],
)
def test_what_is_not_debians_archive_is_not_taken_for_it(source: Source) -> None:
    debian = Source(uri="http://mirror.test/debian", suite="bookworm", components=("main",))
    assert choose([source]) is None
    assert choose([source, debian]) == Mirror(main="http://mirror.test/debian")


def test_disabled_and_source_only_stanzas_do_not_count() -> None:
    off = DEBIAN_SOURCES.replace("Types: deb deb-src", "Enabled: no\nTypes: deb deb-src")
    assert {source.suite for source in parse_deb822(off)} == {"trixie-security"}
    assert parse_deb822("Types: deb-src\nURIs: http://a.test\nSuites: sid\nComponents: main\n") == []


def test_a_mirror_list_file_gives_its_first_address(tmp_path: Path) -> None:
    listed = tmp_path / "mirrors"
    listed.write_text("http://first.test/debian\nhttp://second.test/debian\n")
    etc = write(
        tmp_path, cloud__sources=DEBIAN_SOURCES.replace("http://mirror.test/debian\n", f"mirror+file://{listed}\n")
    )
    mirror = host_mirror(etc)
    assert mirror is not None
    assert mirror.main == "http://first.test/debian"


def test_a_host_without_any_list_has_no_mirror(tmp_path: Path) -> None:
    assert host_mirror(tmp_path) is None
    (tmp_path / "sources.list").write_bytes(b"\xff\xfe binary")
    assert host_mirror(tmp_path) is None


def test_the_variable_names_the_archive_and_perhaps_the_security_archive() -> None:
    assert given_mirror("http://a.test/d") == Mirror(main="http://a.test/d")
    assert given_mirror(" http://a.test/d  http://a.test/s ") == Mirror(
        main="http://a.test/d", security="http://a.test/s"
    )


def test_proxies_and_clock_checks_of_apt_are_kept_and_nothing_else() -> None:
    dump = """APT "";
APT::Architecture "amd64";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::https::CAInfo "/etc/ca.pem";
Acquire::Check-Valid-Until "false";
Acquire::Languages "en";
Acquire::GzipIndexes "true";
Dir::Etc::sourcelist "/elsewhere";
DPkg::Post-Invoke:: "rm -rf /var/cache/apt/archives";
"""
    assert apt_options(dump).splitlines() == [
        'Acquire::http "";',
        'Acquire::http::Proxy "http://proxy.test:3128";',
        'Acquire::https::CAInfo "/etc/ca.pem";',
        'Acquire::Check-Valid-Until "false";',
    ]
