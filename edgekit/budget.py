"""Budgets: what was asked for, what was found, and the verdict between them."""

from __future__ import annotations

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
# A budget's name in documents, and the flag or key that asks for it.
SETTING_OF: dict[BudgetName, str] = {
    "latency_ms": "latency_ms",
    "peak_memory_mb": "memory_mb",
    "size_mb": "size_mb",
    "accuracy_drop": "max_drop",
}


class BudgetLimits(Frozen):
    """Limits under the names of the flags; ``None`` was not asked for."""

    latency_ms: Positive | None = None
    memory_mb: Positive | None = None
    size_mb: Positive | None = None
    max_drop: NotNegative | None = None


class Limit(Extensible):
    """One budget that was asked for. ``asked_by``: flag, environment, a file's name, target."""

    value: float
    asked_by: str


Limits = dict[BudgetName, Limit]


class Figure(Extensible):
    """What was found. ``interval`` is None where the value is exact."""

    value: float
    source: Origin
    interval: tuple[float, float] | None = None
    note: str | None = None


Figures = dict[BudgetName, Figure]


class BudgetLine(Extensible):
    """A budget as the JSON documents carry it."""

    name: BudgetName
    unit: str
    limit: float | None
    value: float | None
    interval: tuple[float, float] | None
    source: Origin | None
    status: Status
    asked_by: str | None = None
    note: str | None = None


def merge_limits(layers: Iterable[tuple[str, BudgetLimits]]) -> Limits:
    """Merge limits from the strongest layer to the weakest; each layer is (who asked, limits)."""
    merged: Limits = {}
    for asked_by, limits in layers:
        for name in BUDGET_NAMES:
            value = getattr(limits, SETTING_OF[name])
            if value is not None and name not in merged:
                merged[name] = Limit(value=value, asked_by=asked_by)
    return merged


def judge(limits: Limits, figures: Figures, notes: dict[BudgetName, str]) -> list[BudgetLine]:
    """Hold every figure against its limit. ``notes`` says why a figure is not there."""
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
    """Limits are inclusive; an interval that straddles the limit decides nothing."""
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
