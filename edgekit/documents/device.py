"""The documents of commands that use a device: deploy, ls, run, eval."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.frozen import Extensible


class DeployDocument(Document):
    """The document of ``deploy``. ``path``: for applications. ``changed``: false if the release
    was already current.
    """

    device: str
    name: str
    release: str
    sent_bytes: int
    reused_bytes: int
    changed: bool
    path: str


class ReleaseRow(Extensible):
    """One release on a device."""

    name: str
    release: str
    current: bool
    size_mb: float


class LsDocument(Document):
    """The document of ``ls``."""

    device: str
    bundles: tuple[ReleaseRow, ...]


class OutputFile(Extensible):
    """An output that ``run`` wrote. ``dtype``: of the file."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str


class RunDocument(Document):
    """The document of ``run``. ``latency_ms``: of this one inference, without warm-up."""

    device: str
    outputs: tuple[OutputFile, ...]
    latency_ms: float


class EvalDocument(Document):
    """The document of ``eval``. ``host_accuracy``: of the same artifact on the host, at build."""

    bundle: str
    device: str
    accuracy: float
    host_accuracy: float | None
    inferences: int
    note: str | None = None
