"""The calibrations in the user's data folder: one file for a device, runtime and version.

.calibrations/NAME.json     a finished calibration, sealed with a digest
.calibrations/.NAME-KEY/    the measurements of one that is not finished, one file each

The folder may also be the store of the device ``local``: no deployment's name begins with a dot.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from edgekit.bundle.manifest import seal, unseal
from edgekit.cache import content_key, write_atomically
from edgekit.cost.calibration.record import CALIBRATION_SCHEMA, CalibratedDevice, Calibration
from edgekit.documents.base import canonical_json
from edgekit.errors import BundleError, CalibrationError, OutputError

AGAIN = "move the file away and run: edgekit targets calibrate DEVICE"


def calibration_folder() -> Path:
    return Path(platformdirs.user_data_dir("edgekit", appauthor=False)) / ".calibrations"


def calibration_path(device: CalibratedDevice, runtime: str, version: str) -> Path:
    """The file of a device's calibration. Equal devices have the same file."""
    facts = canonical_json(device.model_dump(mode="json"))
    title = re.sub(r"[^a-z0-9]+", "-", device.title.lower()).strip("-")[:40]
    name = f"{title}-{content_key([facts])[:8]}-{runtime}-{version}.json"
    return calibration_folder() / name


def read_calibration(path: Path) -> Calibration:
    """Raises CalibrationError: the file is damaged, or of another version of edgekit."""
    try:
        return Calibration.model_validate(unseal(path, CALIBRATION_SCHEMA))
    except BundleError as error:
        raise CalibrationError(f"the calibration {error.message}", error.hint or AGAIN) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CalibrationError(
            f"the calibration {path} is not valid: {key}: {first['msg']}", AGAIN
        ) from None


def write_calibration(calibration: Calibration) -> Path:
    """Store a calibration in the place of an older one. Raises OutputError."""
    path = calibration_path(calibration.device, calibration.runtime, calibration.runtime_version)
    with _output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, seal(calibration.model_dump(mode="json")))
    return path


def read_all() -> tuple[list[Calibration], list[CalibrationError]]:
    """All stored calibrations, and the errors of the files that cannot be read."""
    found, errors = [], []
    for path in sorted(calibration_folder().glob("[!.]*.json")):
        try:
            found.append(read_calibration(path))
        except CalibrationError as error:
            errors.append(error)
    return found, errors


class Draft:
    """The measurements of a calibration that is not finished. Each is kept as it is made."""

    def __init__(self, path: Path, key: str) -> None:
        """``path``: of the finished file. ``key``: of all that the measurements depend on."""
        self._prefix = f".{path.stem}-"
        self._folder = path.parent / f"{self._prefix}{key[:16]}"

    def read(self, name: str) -> Any:
        """A measurement; None if there is none, or it is damaged."""
        try:
            return json.loads((self._folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, name: str, measurement: object) -> None:
        """Raises OutputError."""
        path = self._folder / f"{name}.json"
        with _output_errors(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, canonical_json(measurement))

    def drop(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    @property
    def count(self) -> int:
        return len([*self._folder.glob("*.json")])

    def remove(self) -> None:
        """Remove this draft, and older ones of the same device and runtime."""
        for folder in self._folder.parent.glob(f"{self._prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}",
            "make room or make the folder writable, then run the same command: it goes on",
        ) from error
