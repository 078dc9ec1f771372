"""deploy, rollback, ls, rm: bundles on a device. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.manifest import check_name
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import peak_of
from edgekit.device.base import Transport
from edgekit.device.connect import connection
from edgekit.documents.device import DeployDocument, LsDocument, ReleaseRow
from edgekit.errors import StoreError
from edgekit.progress import Progress, Silent
from edgekit.store.store import Store, release_of, store_root

AFTER_TIMEOUT_S = 600.0


def deploy(
    bundle: str | Path,
    device: str,
    *,
    after: str | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> DeployDocument:
    """Install a bundle on a device and make it the current release of its name.

    Only files that the device lacks are sent. ``after``: a shell command that the device runs once
    the release is current.
    Raises BundleError, DeviceError, PreflightError (nothing was sent), StoreError.
    """
    progress = progress or Silent()
    manifest, record = open_bundle(Path(bundle).resolve())
    release = release_of(Path(bundle).resolve(), manifest, peak_of(record))
    with connection(device, accept_new_host_key, progress) as transport:
        store = Store(transport, store_root(manifest.root))
        done = store.install(release, current=True, progress=progress)
        if after is not None:
            with progress.stage(f"running {after}"):
                _run_after(transport, after, release.name)
        return DeployDocument(
            schema_="edgekit.deploy/1",
            device=transport.name,
            name=release.name,
            release=release.id,
            sent_bytes=done.sent_bytes,
            reused_bytes=done.reused_bytes,
            changed=not done.was_current,
            path=str(done.folder.parent.parent / "current"),
        )


def rollback(name: str, device: str, *, accept_new_host_key: bool = False) -> tuple[str, str]:
    """Switch back to the release before the current one. Returns both ids, old and new.

    Raises UsageError for an invalid name, StoreError for an unknown name or without an earlier
    release.
    """
    check_name(name)
    with connection(device, accept_new_host_key, Silent()) as transport:
        return Store(transport, store_root()).rollback(name)


def ls(device: str, *, accept_new_host_key: bool = False) -> LsDocument:
    """List the releases on a device."""
    with connection(device, accept_new_host_key, Silent()) as transport:
        rows = Store(transport, store_root()).releases()
        return LsDocument(
            schema_="edgekit.ls/1",
            device=transport.name,
            bundles=tuple(
                ReleaseRow(
                    name=row.name, release=row.release, current=row.current, size_mb=row.size_mb
                )
                for row in rows
            ),
        )


def rm(name: str, device: str, *, accept_new_host_key: bool = False) -> None:
    """Remove a name with all its releases from a device. Raises StoreError for an unknown name."""
    check_name(name)
    with connection(device, accept_new_host_key, Silent()) as transport:
        Store(transport, store_root()).remove(name)


def _run_after(transport: Transport, command: str, name: str) -> None:
    try:
        done = transport.run(["sh", "-c", command], timeout_s=AFTER_TIMEOUT_S)
    except TimeoutError:
        raise StoreError(
            f"{name} is deployed, but '{command}' ran longer than {AFTER_TIMEOUT_S:g} s on "
            f"{transport.name} and was ended"
        ) from None
    if done.returncode != 0:
        output = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise StoreError(
            f"{name} is deployed, but '{command}' ended with code {done.returncode} on "
            f"{transport.name}: {output or 'no output'}",
            "correct the command and deploy again (no file is sent twice), or edgekit rollback",
        )
