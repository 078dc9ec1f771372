"""Where results are kept by the content of what went into them, and how they appear: whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("edgekit", appauthor=False))


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
