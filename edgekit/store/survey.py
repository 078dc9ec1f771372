"""A survey of a device and its store, from one round trip. Pure parsers of the script's output."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.device.facts.libc import glibc_version
from edgekit.store.python import DevicePython, parse_python

MARK = "\n@@edgekit "
NEEDED_TOOLS = (
    "cat", "chmod", "cp", "dd", "df", "ln", "mkdir", "mktemp", "mv", "readlink", "rm", "sha256sum",
    "sleep", "sync", "tr", "uname",
)  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """The state of a device and its store for one release. None and empty mean unknown.

    ``damaged``: the release's files that are missing or wrong; None if it is not installed.
    ``held``: the digests of its files that any release in the store has. ``loaders``: of glibc;
    they reveal a 32-bit system on a 64-bit kernel. ``python``: also None if the release does not
    need it. 1 MB = 1,000,000 bytes.
    """

    root: str
    architecture: str | None
    loaders: tuple[str, ...]
    cpu_features: frozenset[str]
    glibc: tuple[int, ...] | None
    has_musl: bool
    glibcxx: tuple[int, ...] | None
    memory_available_mb: float | None
    free_mb: float | None
    lacking_tools: tuple[str, ...]
    unwritable: str
    noexec: str
    current: str | None
    damaged: tuple[str, ...] | None
    held: frozenset[str]
    python: DevicePython | None = None


def sections_of(text: str) -> list[tuple[str, str]]:
    """The named sections in order; a name may occur more than once."""
    parts = (block.partition("\n") for block in ("\n" + text).split(MARK)[1:])
    return [(name, body.strip()) for name, _, body in parts]


def parse_survey(text: str) -> Survey:
    sections = dict(sections_of(text))
    uname = sections.get("uname", "").split()
    tools = set(sections.get("tools", "").split())
    damaged = sections.get("damaged", "absent").split("\n")
    return Survey(
        root=sections.get("root", ""),
        architecture=uname[-1] if uname else None,
        loaders=tuple(sections.get("loaders", "").split()),
        cpu_features=_features(sections.get("cpuinfo", "")),
        glibc=glibc_version(sections.get("glibc", "")),
        has_musl="ld-musl" in sections.get("glibc", ""),
        glibcxx=_glibcxx(sections.get("libstdcxx", "")),
        memory_available_mb=_available_mb(sections.get("meminfo", "")),
        free_mb=_free_mb(sections.get("free_kb", "")),
        lacking_tools=tuple(tool for tool in NEEDED_TOOLS if tool not in tools),
        unwritable=_last_line(sections.get("unwritable", "")),
        noexec=_last_line(sections.get("noexec", "")),
        current=sections.get("current") or None,
        damaged=None if damaged == ["absent"] else tuple(filter(None, damaged)),
        held=frozenset(line.split(" ")[0] for line in sections.get("held", "").splitlines()),
        python=parse_python(sections.get("python", "")),
    )


def _features(cpuinfo: str) -> frozenset[str]:
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _glibcxx(text: str) -> tuple[int, ...] | None:
    """The newest GLIBCXX version. libstdc++.so.6.0.N defines 3.4.N.

    Source: GCC's ABI policy and guidelines, "Versioning".
    """
    numbers = [int(number) for number in re.findall(r"libstdc\+\+\.so\.6\.0\.(\d+)$", text, re.M)]
    return (3, 4, max(numbers)) if numbers else None


def _available_mb(meminfo: str) -> float | None:
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return _kilobytes(match[1]) if match else None


def _free_mb(df: str) -> float | None:
    """The fourth column of df -Pk's last line (POSIX)."""
    columns = _last_line(df).split()
    return _kilobytes(columns[3]) if len(columns) > 3 else None


def _kilobytes(text: str) -> float | None:
    return int(text) * 1024 / 1e6 if text.isdecimal() else None


def _last_line(text: str) -> str:
    return text.splitlines()[-1].strip() if text else ""
