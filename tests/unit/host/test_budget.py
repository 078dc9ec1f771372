from __future__ import annotations

import pytest

from edgekit.budget import BudgetLimits, Figure, Limit, judge, merge_limits, verdict_of


def line(limit, figure):
    limits = {} if limit is None else {"latency_ms": Limit(value=limit, asked_by="flag")}
    figures = {} if figure is None else {"latency_ms": figure}
    return next(row for row in judge(limits, figures, {}) if row.name == "latency_ms")


@pytest.mark.parametrize(
    ("limit", "value", "interval", "status"),
    [
        (None, 5.0, None, "not_asked"),
        (5.0, 5.0, None, "ok"),  # limits are inclusive
        (5.0, 5.1, None, "missed"),
        (5.0, 4.0, (3.0, 5.0), "ok"),
        (5.0, 4.0, (3.0, 5.1), "unknown"),
        (5.0, 6.0, (5.0, 7.0), "unknown"),  # the limit itself would still do
        (5.0, 6.0, (5.1, 7.0), "missed"),
    ],
)
def test_status(limit, value, interval, status) -> None:
    assert line(limit, Figure(value=value, source="measured", interval=interval)).status == status


def test_asked_but_not_found_is_unknown() -> None:
    assert line(5.0, None).status == "unknown"


def test_missed_outweighs_unknown_outweighs_fits() -> None:
    good = line(5.0, Figure(value=1, source="measured"))
    bad = line(5.0, Figure(value=9, source="measured"))
    open_ = line(5.0, None)
    assert verdict_of([good]) == "fits"
    assert verdict_of([good, open_]) == "unknown"
    assert verdict_of([good, open_, bad]) == "missed"
    assert verdict_of([]) == "fits"


def test_every_budget_has_a_line_even_if_not_asked() -> None:
    names = [row.name for row in judge({}, {}, {})]
    assert names == ["latency_ms", "peak_memory_mb", "size_mb", "accuracy_drop"]


def test_stronger_layers_win_and_say_who_asked() -> None:
    merged = merge_limits(
        [
            ("flag", BudgetLimits(latency_ms=1)),
            ("target", BudgetLimits(latency_ms=2, memory_mb=3)),
        ]
    )
    assert merged["latency_ms"] == Limit(value=1, asked_by="flag")
    assert merged["peak_memory_mb"] == Limit(value=3, asked_by="target")
