"""The comparison of runtimes by a build with ``--runtime auto``."""

from __future__ import annotations

from edgekit.budget import Origin, Verdict
from edgekit.frozen import Extensible


class RuntimeCandidate(Extensible):
    """A runtime that a build considered. ``kept``: the bundle is for it. ``reason``: why, or why
    not.

    If it was built: its ``verdict``, ``precision``, and figures as in the budgets, None if unknown.
    ``latency_ratio``: its latency divided by that of the one it lost to, which ``reason`` names,
    with an interval: of 95 % if measured, of what both predictions allow if predicted
    (``latency_source``).
    """

    runtime: str
    kept: bool
    reason: str
    verdict: Verdict | None = None
    precision: str | None = None
    latency_ms: float | None = None
    peak_memory_mb: float | None = None
    size_mb: float | None = None
    accuracy_drop: float | None = None
    latency_ratio: tuple[float, float, float] | None = None
    latency_source: Origin | None = None
