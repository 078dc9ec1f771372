"""Puts a runner, its libraries and a model where this host can run them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import LIBRARY_FOLDER, RUNNER
from edgekit.device.local import LocalTransport
from edgekit.runner.client import Installed
from edgekit.runtimes.base import Artifact, RunnerFiles


@contextmanager
def staged(artifact: Artifact, files: RunnerFiles) -> Iterator[Installed]:
    """The artifact with exactly the libraries that its bundle will carry, ready to run here."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        shutil.copy2(files.runner, folder / RUNNER)
        (folder / LIBRARY_FOLDER).mkdir()
        for library in artifact.program.libraries:
            (folder / LIBRARY_FOLDER / library).symlink_to(files.libraries[library].resolve())
        (folder / artifact.file_name).write_bytes(artifact.data)
        yield installed_at(LocalTransport(), folder, artifact.file_name)


def installed_at(transport: LocalTransport, folder: Path, model: str) -> Installed:
    place = PurePosixPath(folder.resolve())
    return Installed(transport, place / RUNNER, place / model)
