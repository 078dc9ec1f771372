"""Latency by operator in the documents of build, check and explain, and in verdict.json."""

from __future__ import annotations

from edgekit.budget import Origin
from edgekit.frozen import Extensible


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
    share: float


class LatencyParts(Extensible):
    """Where the latency of an inference comes from.

    ``operators``: in order of execution. ``rest_ms``: what the runtime does between them. All of
    them add up to ``latency_ms``.
    """

    source: Origin
    latency_ms: float
    operators: tuple[OperatorLatency, ...]
    rest_ms: float
