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
# Somebody else's clean-up between our survey and our install may take a file away: sent again.
ATTEMPTS = 3
# Hashing a large model on a slow card takes its time. Sending one has no limit: a device that
# answers no more is noticed by its connection.
SCRIPT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Release:
    """A verified bundle as the store knows it. ``peak_memory_mb``: of its runner, if known."""

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
        """Bytes, equal contents counted once."""
        return sum({file.sha256: file.size for file in self.files}.values())


@dataclass(frozen=True)
class Installation:
    """Where a release lies on the device, and what it took to get it there, in bytes."""

    folder: PurePosixPath
    was_current: bool
    sent_bytes: int
    reused_bytes: int


@dataclass(frozen=True)
class Listed:
    """A release found on a device. ``size_mb`` as the bundle's; 0 where it is damaged there."""

    name: str
    release: str
    current: bool
    size_mb: float


def release_of(folder: Path, manifest: Manifest, peak_memory_mb: float | None) -> Release:
    """The release that a verified bundle is. Its id is the beginning of the manifest's digest."""
    listed = [
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
        manifest.name, manifest.digest[:ID_DIGITS], manifest, (*listed, own), peak_memory_mb
    )


def store_root(manifest: Manifest | None = None) -> str:
    """The store's folder on the device: EDGEKIT_ROOT, else the target's, else the default.

    Raises SettingError: EDGEKIT_ROOT is not an absolute path.
    """
    asked = os.environ.get(ROOT_VARIABLE)
    if asked and not asked.startswith(("/", "~/")) and asked != "~":
        raise SettingError(
            f"{ROOT_VARIABLE} is {asked!r}: the store's folder on a device is an absolute path",
            "begin it with / or ~/",
        )
    return asked or (manifest.root if manifest else None) or DEFAULT_ROOT


class Store:
    """A device's store, over a transport. Every method but install is one round trip."""

    def __init__(self, transport: Transport, root: str) -> None:
        self._transport = transport
        self._root = root

    def survey(self, release: Release) -> Survey:
        done = self._script("survey", release.name, release.id, stdin=release.lines)
        return parse_survey(_text(done.stdout))

    def install(self, release: Release, *, current: bool, progress: Progress) -> Installation:
        """Make a release be there whole, and with ``current`` the one that applications see.

        What is there already is not sent. Raises PreflightError before a byte is sent,
        StoreError (busy, disk full, not writable), DeviceError.
        """
        refused: set[str] = set()
        for _ in range(ATTEMPTS):
            survey = self.survey(release)
            self._require(release, survey)
            if survey.damaged == ():
                sent = 0
                done = not current or survey.current == release.id or self._adopt(release)
            else:
                wanted = _wanted(release, survey, refused)
                sent = sum(file.size for file in wanted)
                bad = self._send(release, wanted, current, progress)
                refused |= {file.sha256 for file in release.files if file.path in bad}
                done = not bad
            if done:
                folder = PurePosixPath(survey.root) / release.name / "releases" / release.id
                was_current = survey.current == release.id
                return Installation(folder, was_current, sent, release.size - sent)
        raise StoreError(
            f"{release.name} could not be installed on {self._transport.name}: what was sent was "
            "taken away or damaged each time",
            "is another edgekit at work there, or its disk failing?",
        )

    def rollback(self, name: str) -> tuple[str, str]:
        """Switch back to the release before the current one; give both ids, old and new.

        Raises StoreError: no such name, or nothing to go back to.
        """
        done = self._script("rollback", name)
        before, after = dict(sections_of(_text(done.stdout)))["switched"].split("\n")
        return before, after

    def releases(self) -> tuple[Listed, ...]:
        sections = sections_of(_text(self._script("list").stdout))
        return tuple(_listed(body) for title, body in sections if title == "release")

    def remove(self, name: str) -> None:
        """Remove a name with all its releases. Raises StoreError: there is none."""
        self._script("remove", name)

    def _require(self, release: Release, survey: Survey) -> None:
        device, peak = self._transport.name, release.peak_memory_mb
        preflight.require(release.manifest, survey, device, peak, sends=survey.damaged != ())

    def _adopt(self, release: Release) -> bool:
        """Make a release that is there current. False where somebody has just removed it."""
        done = self._script("adopt", release.name, release.id, allowed=(EXIT_MISSING,))
        return done.returncode == 0

    def _send(
        self,
        release: Release,
        wanted: list[ReleaseFile],
        current: bool,
        progress: Progress,
    ) -> set[str]:
        """Send what is wanted and install. Gives the paths that are not right on the device."""
        whole, gone = sum(file.size for file in wanted), 0
        with progress.stage(f"sending {release.name} to {self._transport.name}") as stage:

            def advance(count: int) -> None:
                nonlocal gone
                gone += count
                stage.advance(gone, whole)

            done = self._script(
                "install_release",
                release.name,
                release.id,
                "current" if current else "tried",
                stdin=upload(release.files, wanted, advance),
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
                f"{self._transport.name} did not finish '{verb}' in {timeout_s:g} s",
                "is its disk failing, or the device overloaded?",
            ) from None
        if done.returncode != 0 and done.returncode not in allowed:
            raise _refusal(done, verb, self._transport.name)
        return done


def _refusal(done: Completed, verb: str, device: str) -> StoreError:
    said = done.stderr.decode(errors="replace").strip() or f"it ended with code {done.returncode}"
    if done.returncode == EXIT_BUSY:
        return StoreError(f"{device}: the store is busy: {said}", "try again when it has finished")
    if done.returncode == EXIT_NOT_THERE:
        return StoreError(
            f"{device}: {said}",
            f"edgekit ls {device} shows what is there; {ROOT_VARIABLE} names a store elsewhere",
        )
    return StoreError(f"{device}: the store refused '{verb}': {said}")


def _listed(body: str) -> Listed:
    name, release, current, text = (*body.split("\n", 3), "")[:4]
    return Listed(name, release, current == "current", _size_mb(text))


def _size_mb(manifest: str) -> float:
    try:
        rows = json.loads(manifest)["files"]
        counted: int = sum(row["size"] for row in rows if row["role"] in COUNTED_ROLES)
    except (ValueError, KeyError, TypeError):
        return 0.0
    return (counted + len(manifest.encode()) + 1) / 1e6  # and its last newline


def _wanted(release: Release, survey: Survey, refused: set[str]) -> list[ReleaseFile]:
    """Each content once: what no release there holds, or what was found to be wrong there."""
    damaged = {file.sha256 for file in release.files if file.path in (survey.damaged or ())}
    lacking = {file.sha256: file for file in release.files if file.sha256 not in survey.held}
    again = {file.sha256: file for file in release.files if file.sha256 in damaged | refused}
    return list((lacking | again).values())


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def installed_on(
    transport: Transport,
    folder: Path,
    manifest: Manifest,
    peak_memory_mb: float | None,
    progress: Progress,
) -> Installed:
    """Exactly this bundle's release on the device, sent where it is missing, current or not."""
    release = release_of(folder, manifest, peak_memory_mb)
    store = Store(transport, store_root(manifest))
    done = store.install(release, current=False, progress=progress)
    return Installed(transport, done.folder / "runner", done.folder / manifest.model)
