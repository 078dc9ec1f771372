"""Atomic writing of bundles. It replaces only folders that edgekit itself wrote."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.bundle.manifest import MANIFEST, VERDICT
from edgekit.errors import OutputError

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def check_output(output: Path) -> None:
    """Check, before any work, that an output folder can be made or replaced.

    Raises OutputError.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a folder", "name another with --output")
    if output.is_dir() and any(output.iterdir()):
        foreign = sorted(_files(output) - _own_files(output))
        if foreign:
            raise OutputError(
                f"{output} exists and is not only a bundle: it holds {foreign[0]}, "
                "which edgekit did not write",
                "name another folder with --output, or remove this one",
            )
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{output} cannot be made: {parent} is not a folder you may write to")


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``output`` at the end of the block, if nothing failed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=".edgekit-draft-", ignore_cleanup_errors=True
    ) as name:
        draft = Path(name) / "bundle"
        draft.mkdir()
        yield draft
        publish(draft, output)


@contextmanager
def output_errors(output: Path) -> Iterator[None]:
    """Turn OSErrors of writing into an OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"the disk is full: {output} was not written", "free some space, then build again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
            raise OutputError(f"{output} cannot be written: {error.strerror}") from error
        raise


def publish(draft: Path, output: Path) -> None:
    """Give the finished draft its name, then remove the old folder of that name."""
    if not output.exists():
        draft.rename(output)
        return
    if not _exchange(draft, output):
        old = draft.parent / "replaced"
        output.rename(old)
        draft.rename(output)
    for leftover in draft.parent.iterdir():
        shutil.rmtree(leftover, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically. False if kernel (Linux 3.15) or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    code = renameat2(
        AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE)
    )
    return bool(code == 0)


def _own_files(folder: Path) -> set[str]:
    """The files of the bundle in ``folder``: those of its manifest, the manifest and the record.

    A damaged manifest is searched for paths, so that a build can replace a damaged bundle.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    try:
        paths = {str(file["path"]) for file in json.loads(text)["files"]}
    except (ValueError, KeyError, TypeError):
        paths = set(re.findall(r'"path":"([^"]+)"', text)) if "edgekit" in text else set()
    return {*paths, MANIFEST, VERDICT} if paths else set()


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
