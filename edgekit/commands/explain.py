"""explain: the records of a bundle's build. Needs no torch and no device."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import verdict_document
from edgekit.documents.verdict import VerdictDocument


def explain(bundle: str | Path) -> VerdictDocument:
    """The losses of accuracy and their repairs, as recorded by the build. Nothing is measured.

    Raises BundleError.
    """
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    return verdict_document("edgekit.explain/1", folder, manifest, record, record.limits)
