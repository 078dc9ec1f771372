"""What the commands print that are about this host: doctor, cache."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.documents.verdict import Status
from edgekit.errors import EXIT_DONE, EXIT_ERROR
from edgekit.frozen import Extensible


class Finding(Extensible):
    """One thing that edgekit needs or can use on this host.

    ``broken``: it is there and does not work. ``not_needed``: it is not there, and nothing is
    lost. ``detail`` is the version or the place, or what is wrong; ``command`` installs or mends
    it, None where nothing is to be done or no command does it.
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
    """What this host can do with edgekit; ``lacks`` names the findings that are in the way."""

    name: str
    works: bool
    lacks: tuple[str, ...]


class DoctorDocument(Document):
    """What ``doctor`` prints. ``ready``: a build for the built-in x86 target works here.
    ``commands`` are those of the findings, each once.
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
    """What ``cache`` prints. ``parts`` is what is there now; ``freed_mb`` is None for ``show``."""

    folder: str
    parts: tuple[CachePart, ...]
    size_mb: float
    freed_mb: float | None = None
