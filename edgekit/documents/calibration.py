"""The document of ``targets calibrate``."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.frozen import Extensible


class LeftOutProgram(Extensible):
    """A program of the calibration, predicted by a fit to the others. ``error``: relative."""

    network: str
    precision: str
    measured_ms: float
    predicted_ms: float
    error: float


class CalibrationQuality(Extensible):
    """How well programs that were not fitted are predicted with a number of threads.

    ``interval``: what a prediction is multiplied with for the ends of its interval.
    """

    threads: int
    mean_error: float
    worst_error: float
    interval: tuple[float, float]
    programs: tuple[LeftOutProgram, ...]


class CalibrateDocument(Document):
    """``model``: as the device reports it, or its processor. ``file``: where it is stored."""

    device: str
    model: str
    cpu: str
    runtime: str
    runtime_version: str
    measured: str
    operators: int
    quality: tuple[CalibrationQuality, ...]
    warnings: tuple[str, ...]
    file: str
