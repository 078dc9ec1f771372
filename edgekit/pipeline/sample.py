"""Some of the calibration inputs, where all of them would take too long."""

from __future__ import annotations

from edgekit.compress.prune import macs_of
from edgekit.pipeline.subject import Subject
from edgekit.recipe import Inputs


def some_inputs(subject: Subject, fewest: int, most: int, macs: float) -> list[Inputs]:
    """Evenly spread over all: as many as ``macs`` multiply-accumulates allow, within bounds."""
    data = subject.calibration
    affordable = int(macs / max(1, macs_of(subject.model, subject.example)))
    count = min(len(data), max(fewest, min(most, affordable)))
    return [data[int(index * len(data) / count)] for index in range(count)]
