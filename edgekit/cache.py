"""Where results are kept by the content of what went into them, and how they appear: whole.

stages/KIND-KEY/    what a build's stage made (pipeline/model/stage_cache.py), and digests of it
runners/KEY/        a compiled native runner
zig/                what the compiler keeps of its own libraries
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("edgekit", appauthor=False))


STAGES = "stages"
DIGESTS = "digests.json"
# What clear() removes: all that a build makes again by itself.
REBUILT = (STAGES, "runners", "zig")
STAGES_LIMIT_BYTES = 4_000_000_000
DRAFT_LIMIT_S = 24 * 3600


def content_key(parts: Iterable[bytes]) -> str:
    """A key that changes when any part does; lengths keep the parts apart."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return ``folder``, made by ``fill`` where it is missing.

    It is filled under a temporary name and appears by rename: an interruption leaves nothing
    half-made, and of two processes at once the first to finish wins.
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is either there whole or not at all."""
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
    """The folder of a finished stage, its files checked; None where there is none (any more)."""
    folder = _stage_folder(kind, key)
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        whole = all(file_digest(folder / name) == digest for name, digest in digests.items())
        if whole:
            with suppress(OSError):
                os.utime(folder)  # the least recently used go first
            return folder
    except (OSError, ValueError, AttributeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or being cleared by another process
    return None


def store_stage(kind: str, key: str, fill: Callable[[Path], None]) -> bool:
    """Keep what ``fill`` writes; False where that fails, whatever it is: a full disk, a folder that
    cannot be written, an object that cannot be saved. A build does not depend on it.
    """

    def fill_and_seal(draft: Path) -> None:
        fill(draft)
        digests = {path.name: file_digest(path) for path in sorted(draft.iterdir())}
        (draft / DIGESTS).write_text(json.dumps(digests))

    try:
        folder_once(_stage_folder(kind, key), fill_and_seal)
    except Exception:  # torch.save has RuntimeError for a full disk
        return False
    with suppress(OSError):  # another process may clear the cache meanwhile
        _make_room(cache_folder() / STAGES)
    return True


def stage_draft(kind: str, key: str) -> Path:
    """Where a stage that takes very long keeps what it has so far: a folder that may not be there
    yet, and goes by itself a day after its last change.
    """
    return cache_folder() / STAGES / f".{kind}-{key}"


def usage() -> list[tuple[str, int, int]]:
    """What the cache holds: name, entries, bytes."""
    try:
        found = sorted(cache_folder().iterdir())
    except OSError:
        return []
    parts = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    return [(part.name, sum(1 for _ in part.iterdir()), _bytes_of(part)) for part in parts]


def clear() -> int:
    """Remove all that builds make again by themselves; give the bytes. Raises OSError."""
    freed = 0
    for name in REBUILT:
        folder = cache_folder() / name
        if folder.is_dir():
            freed += _bytes_of(folder)
            # renamed first: a build that runs meanwhile sees an entry whole or not at all
            doomed = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=".cleared."))
            with suppress(FileNotFoundError):  # another clear was faster
                folder.rename(doomed / name)
    for doomed in cache_folder().glob(".cleared.*"):
        shutil.rmtree(doomed, ignore_errors=True)
    return freed


def _stage_folder(kind: str, key: str) -> Path:
    return cache_folder() / STAGES / f"{kind}-{key}"


def _make_room(folder: Path) -> None:
    """The least recently used go, and drafts that a killed process left."""
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
        with suppress(OSError):  # it may go while we look
            yield time.time() - entry.stat().st_mtime, entry


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it may go while we look
            total += path.lstat().st_size
    return total
