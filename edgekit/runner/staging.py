"""Temporary folders with a runner, its libraries and a model, to run on this host."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import LIBRARY_FOLDER, RUNNER, Manifest
from edgekit.device.base import Transport
from edgekit.device.local import LocalTransport
from edgekit.program import Artifact
from edgekit.runner.client import Installed
from edgekit.runner.files import RunnerFiles


@contextmanager
def staged(artifact: Artifact, files: RunnerFiles) -> Iterator[Installed]:
    """The artifact, installed on this host with exactly the libraries of its bundle."""
    libraries = artifact.program.libraries
    with staged_file(artifact.data, artifact.file_name, libraries, files) as here:
        yield here


@contextmanager
def staged_file(
    data: bytes, file_name: str, libraries: Iterable[str], files: RunnerFiles
) -> Iterator[Installed]:
    """A runtime's model file, installed on this host with ``libraries``."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        shutil.copyfile(files.runner, folder / RUNNER)
        (folder / RUNNER).chmod(0o755)
        (folder / LIBRARY_FOLDER).mkdir()
        for library, source in files.needed(libraries).items():
            place = folder / LIBRARY_FOLDER / library
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source.resolve())
        (folder / file_name).write_bytes(data)
        yield installed_at(LocalTransport(), folder, file_name)


def put_runner(
    transport: Transport, files: RunnerFiles, named: Iterable[str], place: PurePosixPath
) -> PurePosixPath:
    """Copy a runner, and the libraries of programs that name some, to a device's folder.

    Returns the runner's path. Raises DeviceError, StoreError.
    """
    libraries = {place / LIBRARY_FOLDER / n: path for n, path in files.needed(named).items()}
    folders = sorted({str(path.parent) for path in libraries} | {str(place / LIBRARY_FOLDER)})
    transport.run(["mkdir", "-p", *folders])
    transport.put(files.runner, place / RUNNER)
    transport.run(["chmod", "755", str(place / RUNNER)])
    for path, source in sorted(libraries.items()):
        transport.put(source, path)
    return place / RUNNER


@contextmanager
def runnable_copy(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A temporary copy of a bundle's programs, with mode bits that the bundle may have lost."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        place = Path(name)
        for file in manifest.files:
            if file.role in ("runner", "library"):
                (place / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file.path, place / file.path)
                (place / file.path).chmod(0o755)
        (place / manifest.model).symlink_to((folder / manifest.model).resolve())
        yield place


def installed_at(transport: LocalTransport, folder: Path, model: str) -> Installed:
    place = PurePosixPath(folder.resolve())
    return Installed(transport, place / RUNNER, place / model)
