"""The cache: results under a key of their inputs' content, written atomically.

stages/KIND-KEY/    the result of a build's stage (pipeline/model/stage_cache.py), with digests
runners/KEY/        a compiled native runner
roots/              other architectures' Python, to check bundles with (device/debian.py)
points/             measured points of searches, in a database (search/points.py)
zig/                the compiler's own cache
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("edgekit", appauthor=False))


STAGES, POINTS = "stages", "points"
DIGESTS = "digests.json"
# clear() removes these: builds can make them again.
REBUILT = (STAGES, POINTS, "runners", "zig", "roots")
STAGES_LIMIT_BYTES = 4_000_000_000
DRAFT_LIMIT_S = 24 * 3600


PACKAGE = Path(__file__).resolve().parent
# Besides edgekit and Python, their versions decide the bytes of an artifact.
PACKAGES = ("torch", "executorch", "torchao", "numpy", "timm", "transformers", "ultralytics")


def content_key(parts: Iterable[bytes]) -> str:
    """A digest of all parts. Each part's length is included, so that parts cannot run together."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def versions(folders: tuple[str, ...] = (".",)) -> tuple[str, ...]:
    """Versions of everything that decides the bytes of an artifact.

    For edgekit, the digests of the source files in ``folders`` of the package.
    """
    found = [platform.python_version()]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} -")
    paths = {path for folder in folders for path in (PACKAGE / folder).rglob("*.py")}
    return (*found, *(file_digest(path) for path in sorted(paths)))


def make_folder_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return ``folder``; if it is missing, make it with ``fill``.

    It is filled under a temporary name and then renamed. So an interruption leaves no incomplete
    folder, and if two processes make it at once, the first to finish wins.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:16]}.") as scratch:
        draft = Path(scratch) / "draft"
        draft.mkdir()
        fill(draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:16]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def load_stage(kind: str, key: str) -> Path | None:
    """The folder of a finished stage, with verified files; None if missing or damaged."""
    folder = _stage_folder(kind, key)
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        is_intact = all(file_digest(folder / name) == digest for name, digest in digests.items())
        if is_intact:
            with suppress(OSError):
                os.utime(folder)  # the least recently used are removed first
            return folder
    except (OSError, ValueError, AttributeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or being cleared by another process
    return None


def store_stage(kind: str, key: str, fill: Callable[[Path], None]) -> bool:
    """Store what ``fill`` writes. False if that fails for any reason: a full disk, a folder that is
    not writable, an object that cannot be saved. A build goes on without it.
    """

    def fill_and_seal(draft: Path) -> None:
        fill(draft)
        digests = {path.name: file_digest(path) for path in sorted(draft.iterdir())}
        (draft / DIGESTS).write_text(json.dumps(digests))

    try:
        make_folder_once(_stage_folder(kind, key), fill_and_seal)
    except Exception:  # torch.save raises RuntimeError for a full disk
        return False
    with suppress(OSError):  # another process may clear the cache at the same time
        _make_room(cache_folder() / STAGES)
    return True


def stage_draft(kind: str, key: str) -> Path:
    """The folder for a long stage's intermediate results. It may not exist yet, and is removed a
    day after its last change.
    """
    return cache_folder() / STAGES / f".{kind}-{key}"


def usage() -> list[tuple[str, int, int]]:
    """The parts of the cache: name, number of entries, bytes."""
    try:
        paths = sorted(cache_folder().iterdir())
    except OSError:
        return []
    parts = [path for path in paths if path.is_dir() and not path.name.startswith(".")]
    return [(part.name, sum(1 for _ in part.iterdir()), _bytes_of(part)) for part in parts]


def clear() -> int:
    """Remove all that builds can make again. Returns the bytes freed. Raises OSError."""
    freed = 0
    for name in REBUILT:
        folder = cache_folder() / name
        if folder.is_dir():
            freed += _bytes_of(folder)
            # renamed first: a build at the same time sees no incomplete entry
            doomed = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=".cleared."))
            with suppress(FileNotFoundError):  # another clear was faster
                folder.rename(doomed / name)
    for doomed in cache_folder().glob(".cleared.*"):
        shutil.rmtree(doomed, ignore_errors=True)
    return freed


def _stage_folder(kind: str, key: str) -> Path:
    return cache_folder() / STAGES / f"{kind}-{key}"


def _make_room(folder: Path) -> None:
    """Remove the least recently used stages, and old drafts of killed processes."""
    total = 0
    for age_s, entry in sorted(_ages(folder)):
        if entry.name.startswith("."):
            if age_s > DRAFT_LIMIT_S:
                shutil.rmtree(entry, ignore_errors=True)
            continue
        used = _bytes_of(entry)
        if total and total + used > STAGES_LIMIT_BYTES:
            shutil.rmtree(entry, ignore_errors=True)
        total += used


def _ages(folder: Path) -> Iterator[tuple[float, Path]]:
    for entry in folder.iterdir():
        with suppress(OSError):  # another process may remove it
            yield time.time() - entry.stat().st_mtime, entry


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process may remove it
            total += path.lstat().st_size
    return total
