"""The releases that a build for several runtimes leaves in its device's store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekit.bundle.manifest import read_manifest
from edgekit.device.base import Transport
from edgekit.errors import DeviceError, StoreError
from edgekit.progress import Progress
from edgekit.store.store import Store, release_id, store_root


class TriedReleases:
    """Each bundle is installed on the device to measure it. Only the best one's release stays,
    beside all that were there before the build.
    """

    def __init__(self, transport: Transport | None, root: str | None, progress: Progress) -> None:
        """Without ``transport`` nothing is installed. ``root``: the target's. Raises StoreError,
        DeviceError.
        """
        self._progress = progress
        self._store = Store(transport, store_root(root)) if transport is not None else None
        rows = self._store.releases() if self._store is not None else ()
        self._before = {(row.name, row.release) for row in rows}
        self._built: set[tuple[str, str]] = set()

    def add(self, bundles: Iterable[Path]) -> None:
        """Bundles that were measured."""
        self._built |= {_release(bundle) for bundle in bundles}

    def remove_all_but(self, bundle: Path) -> None:
        """Remove the releases of all other bundles that were added. A failure is only noted."""
        if self._store is None:
            return
        for name, release in sorted(self._built - self._before - {_release(bundle)}):
            try:
                self._store.discard(name, release)
            except (StoreError, DeviceError) as error:
                self._progress.note(f"release {release} of {name} stays: {error.message}")


def _release(bundle: Path) -> tuple[str, str]:
    manifest = read_manifest(bundle)
    return manifest.name, release_id(manifest)
