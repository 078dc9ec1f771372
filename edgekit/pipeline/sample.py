"""Some of the calibration inputs, where all of them would take too long."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.calibration import spread_over
from edgekit.compress.prune import macs_of
from edgekit.pipeline.subject import Subject
from edgekit.recipe import Inputs


def some_inputs(
    subject: Subject, data: Sequence[Inputs], fewest: int, most: int, macs: float
) -> list[Inputs]:
    """Of ``data``, evenly spread: as many as ``macs`` multiply-accumulates allow, within bounds."""
    affordable = int(macs / max(1, macs_of(subject.model, subject.example)))
    return spread_over(data, max(fewest, min(most, affordable)))
