"""What the commands print that reach a device: deploy, ls, run, eval."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.frozen import Extensible


class DeployDocument(Document):
    """What ``deploy`` prints. ``path`` is what an application opens; ``changed`` is false where
    this release was the current one already.
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
    """What ``ls`` prints."""

    device: str
    bundles: tuple[ReleaseRow, ...]


class OutputFile(Extensible):
    """An output that ``run`` wrote. ``dtype`` as the file has it."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str


class RunDocument(Document):
    """What ``run`` prints. ``latency_ms`` is that of this one inference, without warm-up."""

    device: str
    outputs: tuple[OutputFile, ...]
    latency_ms: float


class EvalDocument(Document):
    """What ``eval`` prints. ``host_accuracy``: of the same artifact on the host, at build."""

    bundle: str
    device: str
    accuracy: float
    host_accuracy: float | None
    inferences: int
    note: str | None = None
