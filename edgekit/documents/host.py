"""The documents of commands about this host: doctor, cache."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.documents.verdict import Status
from edgekit.errors import EXIT_DONE, EXIT_ERROR
from edgekit.frozen import Extensible


class Finding(Extensible):
    """One thing that edgekit needs or can use on this host.

    ``broken``: present, but does not work. ``not_needed``: absent, and not needed here.
    ``detail``: the version, the location or the problem. ``command``: installs or repairs it; None
    if nothing is to be done or no command does it.
    """

    name: str
    status: Status
    detail: str
    needed_for: tuple[str, ...] = ()
    command: str | None = None

    @property
    def is_fine(self) -> bool:
        return self.status in ("ok", "not_needed")


class Ability(Extensible):
    """A task of edgekit, and whether it works on this host. ``lacks``: findings that prevent it."""

    name: str
    works: bool
    lacks: tuple[str, ...]


class DoctorDocument(Document):
    """The document of ``doctor``. ``ready``: a build for the built-in x86 target works here.
    ``commands``: those of the findings, without repetition.
    """

    ready: bool
    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]
    commands: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_DONE if self.ready else EXIT_ERROR


class CachePart(Extensible):
    """One folder of the cache."""

    name: str
    entries: int
    size_mb: float


class CacheDocument(Document):
    """The document of ``cache``. ``parts``: its content now. ``freed_mb``: None for ``show``."""

    folder: str
    parts: tuple[CachePart, ...]
    size_mb: float
    freed_mb: float | None = None
