"""Opening a bundle: its verified manifest and its record."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.manifest import Manifest, read_manifest, verify
from edgekit.bundle.verdict import Record, read_record


def open_bundle(folder: Path) -> tuple[Manifest, Record]:
    """Verify and read a bundle. Raises BundleError."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return manifest, read_record(folder, manifest.digest)
