"""Changes a bundle as somebody with edgekit's own tools could: whole, but not what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.bundle.manifest import MANIFEST, VERDICT, Manifest, read_manifest
from edgekit.bundle.verdict import read_record
from edgekit.cache import file_digest


def reseal(bundle: Path, needs: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    """Write the manifest and verdict.json anew, for the listed files as they are now."""
    old = read_manifest(bundle)
    record = read_record(bundle, old.digest)
    files = changes.pop("files", old.files)
    changes["files"] = tuple(
        file.model_copy(
            update={
                "sha256": file_digest(bundle / file.path),
                "size": (bundle / file.path).stat().st_size,
            }
        )
        for file in files
    )
    changes["needs"] = old.needs.replaced(**needs or {})
    manifest = old.replaced(**changes)
    (bundle / MANIFEST).write_bytes(manifest.to_bytes())
    record = record.replaced(manifest=manifest.digest)
    (bundle / VERDICT).write_bytes(record.to_bytes())
    return manifest
