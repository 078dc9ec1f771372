"""The releases that a build for several runtimes leaves in its device's store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.bundle.manifest import MANIFEST, read_manifest
from edgekit.errors import DeviceError, StoreError
from edgekit.pipeline.bundle_build import BundleBuild
from edgekit.store.store import Store, release_id, store_root


@contextmanager
def without_losers(job: BundleBuild, folder: Path) -> Iterator[None]:
    """Afterwards the device has only one of the releases that the build has installed there to
    measure them: that of the bundle in ``folder``. Releases that it had before are not removed. A
    failure to remove one is only noted.

    Raises StoreError, DeviceError: the store cannot be read at the beginning.
    """
    if job.transport is None:
        yield
        return
    store = Store(job.transport, store_root(job.target.root))
    before = {(row.name, row.release) for row in store.releases()}
    try:
        yield
    finally:
        for name, release in sorted(job.installed - before - _release(folder)):
            try:
                store.discard(name, release)
            except (StoreError, DeviceError) as error:
                job.progress.note(f"release {release} of {name} stays: {error.message}")


def _release(folder: Path) -> set[tuple[str, str]]:
    if not (folder / MANIFEST).is_file():
        return set()
    manifest = read_manifest(folder)
    return {(manifest.name, release_id(manifest))}
