"""The client of the store's script (store.sh): survey, install, rollback, list, remove."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import COUNTED_ROLES, MANIFEST, Manifest
from edgekit.cache import file_digest
from edgekit.device.base import Completed, Stdin, Transport
from edgekit.errors import DeviceError, SettingError, StoreError
from edgekit.progress import Progress
from edgekit.runner.client import Installed
from edgekit.store import preflight
from edgekit.store.survey import Survey, parse_survey, sections_of
from edgekit.store.upload import ReleaseFile, upload

DEFAULT_ROOT = "~/.local/share/edgekit"
ROOT_VARIABLE = "EDGEKIT_ROOT"
ID_DIGITS = 16
EXIT_NOT_THERE, EXIT_MISSING, EXIT_BUSY = 73, 74, 75
# Another client may remove a file between our survey and our install: then it is sent again.
ATTEMPTS = 3
# Hashing a large model on a slow card takes long. Sending has no limit: the connection detects a
# device that stops answering.
SCRIPT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Release:
    """A verified bundle, as a release of the store. ``peak_memory_mb``: its runner's, if known."""

    name: str
    id: str
    manifest: Manifest
    files: tuple[ReleaseFile, ...]
    peak_memory_mb: float | None

    @property
    def lines(self) -> bytes:
        return ("".join(file.line for file in self.files) + "end\n").encode()

    @property
    def size(self) -> int:
        """In bytes; equal files count once."""
        return sum({file.sha256: file.size for file in self.files}.values())


@dataclass(frozen=True)
class Installation:
    """A release on the device, and the bytes that were sent and reused to install it."""

    folder: PurePosixPath
    was_current: bool
    sent_bytes: int
    reused_bytes: int


@dataclass(frozen=True)
class Listed:
    """A release on a device. ``size_mb`` as in the bundle; 0 if its manifest is damaged."""

    name: str
    release: str
    current: bool
    size_mb: float


def release_of(folder: Path, manifest: Manifest, peak_memory_mb: float | None) -> Release:
    """The release of a verified bundle. Its id is the beginning of the manifest's digest."""
    bundle_files = [
        ReleaseFile(
            source=folder / file.path,
            path=file.path,
            sha256=file.sha256,
            size=file.size,
            mode="755" if file.role in ("runner", "library") else "644",
        )
        for file in manifest.files
    ]
    path = folder / MANIFEST
    own = ReleaseFile(path, MANIFEST, file_digest(path), path.stat().st_size, "644")
    return Release(
        manifest.name, release_id(manifest), manifest, (*bundle_files, own), peak_memory_mb
    )


def release_id(manifest: Manifest) -> str:
    return manifest.digest[:ID_DIGITS]


def store_root(root: str | None = None) -> str:
    """The store's folder on the device: EDGEKIT_ROOT, else the target's ``root``, else the default.

    Raises SettingError if EDGEKIT_ROOT is not an absolute path.
    """
    configured = os.environ.get(ROOT_VARIABLE)
    if configured and not configured.startswith(("/", "~/")) and configured != "~":
        raise SettingError(
            f"{ROOT_VARIABLE} is {configured!r}, but must be an absolute path on the device",
            "begin it with / or ~/",
        )
    return configured or root or DEFAULT_ROOT


class Store:
    """A device's store, over a transport. Every method but install is one round trip."""

    def __init__(self, transport: Transport, root: str) -> None:
        self._transport = transport
        self._root = root

    def survey(self, release: Release) -> Survey:
        python = ["python"] if release.manifest.needs.pythons else []
        done = self._script("survey", release.name, release.id, *python, stdin=release.lines)
        return parse_survey(_text(done.stdout))

    def install(self, release: Release, *, current: bool, progress: Progress) -> Installation:
        """Install a release completely. With ``current`` it becomes the one that applications see.

        Only files that the store lacks are sent. Raises PreflightError before anything is sent,
        StoreError (busy, disk full, not writable), DeviceError.
        """
        rejected: set[str] = set()
        for _ in range(ATTEMPTS):
            survey = self.survey(release)
            self._require(release, survey)
            if survey.damaged == ():
                sent = 0
                done = not current or survey.current == release.id or self._adopt(release)
            else:
                missing = _files_to_send(release, survey, rejected)
                sent = sum(file.size for file in missing)
                bad = self._send(release, missing, current, progress)
                rejected |= {file.sha256 for file in release.files if file.path in bad}
                done = not bad
            if done:
                folder = PurePosixPath(survey.root) / release.name / "releases" / release.id
                was_current = survey.current == release.id
                return Installation(folder, was_current, sent, release.size - sent)
        raise StoreError(
            f"{release.name} could not be installed on {self._transport.name}: in "
            f"{ATTEMPTS} attempts, files were missing or damaged after they were sent",
            "is another edgekit changing the store, or is the device's disk failing?",
        )

    def rollback(self, name: str) -> tuple[str, str]:
        """Switch back to the release before the current one. Returns both ids, old and new.

        Raises StoreError if there is no such name or no earlier release.
        """
        done = self._script("rollback", name)
        before, after = dict(sections_of(_text(done.stdout)))["switched"].split("\n")
        return before, after

    def releases(self) -> tuple[Listed, ...]:
        sections = sections_of(_text(self._script("list").stdout))
        return tuple(_parse_release(body) for title, body in sections if title == "release")

    def remove(self, name: str) -> None:
        """Remove a name with all its releases. Raises StoreError if there is no such name."""
        self._script("remove", name)

    def discard(self, name: str, release: str) -> None:
        """Remove one release that was only tried. One that is current, or was deployed before, and
        one that is not there, are left as they are.
        """
        self._script("discard", name, release)

    def _require(self, release: Release, survey: Survey) -> None:
        device, peak = self._transport.name, release.peak_memory_mb
        preflight.require(release.manifest, survey, device, peak, sends=survey.damaged != ())

    def _adopt(self, release: Release) -> bool:
        """Make an installed release current. False if another client has just removed it."""
        done = self._script("adopt", release.name, release.id, allowed=(EXIT_MISSING,))
        return done.returncode == 0

    def _send(
        self,
        release: Release,
        missing: list[ReleaseFile],
        current: bool,
        progress: Progress,
    ) -> set[str]:
        """Send ``missing`` and install. Returns the paths that are wrong on the device."""
        total, sent = sum(file.size for file in missing), 0
        with progress.stage(f"sending {release.name} to {self._transport.name}") as stage:

            def advance(count: int) -> None:
                nonlocal sent
                sent += count
                stage.advance(sent, total)

            done = self._script(
                "install_release",
                release.name,
                release.id,
                "current" if current else "tried",
                stdin=upload(release.files, missing, advance),
                allowed=(EXIT_MISSING,),
                timeout_s=None,
            )
        return set(dict(sections_of(_text(done.stdout))).get("missing", "").splitlines())

    def _script(
        self,
        verb: str,
        *arguments: str,
        stdin: Stdin = b"",
        allowed: tuple[int, ...] = (),
        timeout_s: float | None = SCRIPT_TIMEOUT_S,
    ) -> Completed:
        script = package_files("edgekit.store").joinpath("store.sh").read_text(encoding="utf-8")
        command = ["sh", "-c", script, "edgekit-store", verb, self._root, *arguments]
        try:
            done = self._transport.run(command, stdin=stdin, timeout_s=timeout_s)
        except TimeoutError:
            raise DeviceError(
                f"{self._transport.name} did not finish '{verb}' within {timeout_s:g} s",
                "is its disk failing, or is the device overloaded?",
            ) from None
        if done.returncode != 0 and done.returncode not in allowed:
            raise _refusal(done, verb, self._transport.name)
        return done


def _refusal(done: Completed, verb: str, device: str) -> StoreError:
    reason = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
    if done.returncode == EXIT_BUSY:
        return StoreError(f"{device}: the store is busy: {reason}", "try again later")
    if done.returncode == EXIT_NOT_THERE:
        return StoreError(
            f"{device}: {reason}",
            f"edgekit ls {device} lists the deployments; {ROOT_VARIABLE} sets another store",
        )
    return StoreError(f"{device}: '{verb}' failed in the store: {reason}")


def _parse_release(body: str) -> Listed:
    name, release, current, text = (*body.split("\n", 3), "")[:4]
    return Listed(name, release, current == "current", _size_mb(text))


def _size_mb(manifest: str) -> float:
    try:
        rows = json.loads(manifest)["files"]
        counted: int = sum(row["size"] for row in rows if row["role"] in COUNTED_ROLES)
    except (ValueError, KeyError, TypeError):
        return 0.0
    return (counted + len(manifest.encode()) + 1) / 1e6  # 1: the newline at its end


def _files_to_send(release: Release, survey: Survey, rejected: set[str]) -> list[ReleaseFile]:
    """One file for each content that the device lacks or has only damaged."""
    damaged = {file.sha256 for file in release.files if file.path in (survey.damaged or ())}
    absent = {file.sha256: file for file in release.files if file.sha256 not in survey.held}
    again = {file.sha256: file for file in release.files if file.sha256 in damaged | rejected}
    return list((absent | again).values())


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def installed_on(
    transport: Transport,
    folder: Path,
    manifest: Manifest,
    peak_memory_mb: float | None,
    progress: Progress,
) -> Installed:
    """This bundle's release on the device, installed if needed. It need not be current."""
    release = release_of(folder, manifest, peak_memory_mb)
    store = Store(transport, store_root(manifest.root))
    done = store.install(release, current=False, progress=progress)
    return Installed(transport, done.folder / "runner", done.folder / manifest.model)
