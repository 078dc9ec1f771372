"""explain: what a build found out about its bundle. Needs no torch and no device."""

from __future__ import annotations

from pathlib import Path

from edgekit.documents import VerdictDocument
from edgekit.pipeline.check import open_bundle, verdict_document


def explain(bundle: str | Path) -> VerdictDocument:
    """Where the accuracy went and what buys it back, as it was recorded at build; nothing is
    measured anew. Raises BundleError.
    """
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    return verdict_document("edgekit.explain/1", folder, manifest, record, record.limits)
