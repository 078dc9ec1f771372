"""Latency by operator in the documents of build, check and explain, and in verdict.json."""

from __future__ import annotations

from typing import Literal

from edgekit.budget import Origin
from edgekit.frozen import Extensible

# How a latency was found, in order of rising trust.
CostSource = Literal["estimated", "emulated", "calibrated", "measured"]


class OperatorLatency(Extensible):
    """One operator of an inference.

    ``layer``: the module's name in the recipe's model; '' the model itself, None unknown.
    ``kind``: as in edgekit/cost/shapes.py; the runtime's name if it inserted the operator.
    ``precision``: None if unknown. ``share``: of the whole inference, from 0 to 1.
    """

    layer: str | None
    kind: str
    precision: str | None
    latency_ms: float
    share: float = 0.0


class LatencyParts(Extensible):
    """Where the latency of an inference comes from.

    ``method``: None in bundles of older versions. ``interval``: of the whole.
    ``operators``: in order of execution, without those that the runtime fuses into others.
    ``rest_ms``: what the runtime does between them. All of them add up to ``latency_ms``.
    """

    source: Origin
    method: CostSource | None = None
    latency_ms: float
    interval: tuple[float, float] | None = None
    operators: tuple[OperatorLatency, ...]
    rest_ms: float
