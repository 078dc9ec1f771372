"""Budgets: limits, figures, and the verdict from comparing them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from edgekit.frozen import Extensible, Frozen
from edgekit.values import NotNegative, Positive

BudgetName = Literal["latency_ms", "peak_memory_mb", "size_mb", "accuracy_drop"]
Verdict = Literal["fits", "missed", "unknown"]
Status = Literal["ok", "missed", "unknown", "not_asked"]
Origin = Literal["predicted", "measured"]

BUDGET_NAMES: tuple[BudgetName, ...] = (
    "latency_ms",
    "peak_memory_mb",
    "size_mb",
    "accuracy_drop",
)
UNITS: dict[BudgetName, str] = {
    "latency_ms": "ms",
    "peak_memory_mb": "MB",
    "size_mb": "MB",
    "accuracy_drop": "points",
}
# What decides an open budget, in the note of a prediction.
DECIDE = "--device or edgekit bench measures it"
# A budget's name in documents -> the flag or key that sets it.
SETTING_OF: dict[BudgetName, str] = {
    "latency_ms": "latency_ms",
    "peak_memory_mb": "memory_mb",
    "size_mb": "size_mb",
    "accuracy_drop": "max_drop",
}


class BudgetLimits(Frozen):
    """Limits by the names of the flags; None: no limit."""

    latency_ms: Positive | None = None
    memory_mb: Positive | None = None
    size_mb: Positive | None = None
    max_drop: NotNegative | None = None


class Limit(Extensible):
    """The limit of one budget. ``asked_by``: flag, environment, a file's name, or target."""

    value: float
    asked_by: str


Limits = dict[BudgetName, Limit]


class Figure(Extensible):
    """A predicted or measured value. ``interval``: None if the value is exact."""

    value: float
    source: Origin
    interval: tuple[float, float] | None = None
    note: str | None = None


Figures = dict[BudgetName, Figure]


class BudgetLine(Extensible):
    """A budget in the JSON documents: limit, value and status."""

    name: BudgetName
    unit: str
    limit: float | None
    value: float | None
    interval: tuple[float, float] | None
    source: Origin | None
    status: Status
    asked_by: str | None = None
    note: str | None = None


def round_up(value: float, digits: int = 3) -> float:
    """The least number of so many digits that is not below ``value``.

    >>> round_up(7.651), round_up(0.0047501), round_up(12345)
    (7.66, 0.00476, 12400.0)
    """
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


def merge_limits(layers: Iterable[tuple[str, BudgetLimits]]) -> Limits:
    """Merge limits, the strongest layer first; each layer is (asked_by, limits)."""
    merged: Limits = {}
    for asked_by, limits in layers:
        for name in BUDGET_NAMES:
            value = getattr(limits, SETTING_OF[name])
            if value is not None and name not in merged:
                merged[name] = Limit(value=value, asked_by=asked_by)
    return merged


def judge(limits: Limits, figures: Figures, notes: dict[BudgetName, str]) -> list[BudgetLine]:
    """Compare every figure with its limit. ``notes``: why a figure is unknown."""
    return [
        _line(name, limits.get(name), figures.get(name), notes.get(name)) for name in BUDGET_NAMES
    ]


def _line(
    name: BudgetName, limit: Limit | None, figure: Figure | None, note: str | None
) -> BudgetLine:
    return BudgetLine(
        name=name,
        unit=UNITS[name],
        limit=limit.value if limit else None,
        value=figure.value if figure else None,
        interval=figure.interval if figure else None,
        source=figure.source if figure else None,
        status=_status(limit, figure),
        asked_by=limit.asked_by if limit else None,
        note=figure.note if figure else note,
    )


def _status(limit: Limit | None, figure: Figure | None) -> Status:
    """The status of one budget. Limits are inclusive; an interval across the limit is unknown."""
    if limit is None:
        return "not_asked"
    if figure is None:
        return "unknown"
    low, high = figure.interval or (figure.value, figure.value)
    if high <= limit.value:
        return "ok"
    return "missed" if low > limit.value else "unknown"


def verdict_of(lines: Iterable[BudgetLine]) -> Verdict:
    """``missed`` if any budget is missed, else ``unknown`` if any is unknown, else ``fits``."""
    statuses = {line.status for line in lines}
    if "missed" in statuses:
        return "missed"
    return "unknown" if "unknown" in statuses else "fits"
