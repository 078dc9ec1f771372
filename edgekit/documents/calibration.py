"""The document of ``targets calibrate``."""

from __future__ import annotations

from edgekit.documents.base import Document
from edgekit.frozen import Extensible


class LeftOutProgram(Extensible):
    """A program of the calibration, predicted by a fit to the other networks.

    ``error``: relative; 0.1 means that the prediction is 10 % too long.
    """

    network: str
    precision: str
    measured_ms: float
    predicted_ms: float
    interval_ms: tuple[float, float]
    error: float


class CalibrationQuality(Extensible):
    """How well programs that were not fitted are predicted with a number of threads.

    ``covered``: the share of them whose latency is inside the interval of its prediction.
    """

    threads: int
    mean_error: float
    worst_error: float
    covered: float
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
