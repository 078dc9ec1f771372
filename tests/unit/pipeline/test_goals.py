"""What a search holds an artifact's costs against, so that a whole interval meets the limit."""

from __future__ import annotations

import pytest

from edgekit.budget import BudgetLine, Figure, Origin
from edgekit.documents.memory import MemoryLedger
from edgekit.documents.verdict import VerdictDocument
from edgekit.pipeline.fit.goals import Goals, goals_of
from edgekit.pipeline.fit.meter import Cost

LIMIT_MS = 0.06


def cost(value: float, high: float, source: Origin = "predicted") -> Cost:
    figure = Figure(value=value, source=source, interval=(value / 2, high))
    return Cost(figure, None, None, 0.1, ())


def goals(base: Cost) -> Goals:
    assert base.latency is not None
    assert base.latency.interval is not None
    share = base.latency.value / base.latency.interval[1]
    return Goals(LIMIT_MS * share, None, None, base, 5.0, 3.0)


@pytest.mark.parametrize(("high", "fits"), [(0.059, True), (0.061, False)])
def test_the_end_of_a_predicted_interval_counts(high, fits) -> None:
    """It grows with the operators: no multiple of the value."""
    wanted = goals(cost(0.006, 0.1))
    assert (wanted.misses(cost(0.003, high)) == []) == fits
    assert (wanted.latency_ms_of(cost(0.003, high)) <= wanted.latency_ms) == fits


def test_a_measured_value_counts_itself() -> None:
    """Its interval is that of chance."""
    wanted = goals(cost(0.1, 0.1, "measured"))
    assert wanted.misses(cost(0.059, 0.07, "measured")) == []
    assert wanted.misses(cost(0.061, 0.062, "measured")) == ["latency_ms"]


def of_memory(peak_mb: float, high_mb: float) -> Cost:
    ledger = MemoryLedger(
        parts=(), load_mb=peak_mb, run_mb=peak_mb, peak_mb=peak_mb, interval=(0.0, high_mb)
    )
    return Cost(None, None, ledger, 0.1, ())


def goals_of_memory(base: Cost, value_mb: float, high_mb: float, source: Origin) -> Goals:
    """Those of a bundle with this peak and a budget of 9 MB."""
    peak = (9.0, value_mb, (value_mb - 1, high_mb), source)
    rows = {"latency_ms": (None,) * 4, "peak_memory_mb": peak, "size_mb": (None, 3.0, None, None)}
    lines = tuple(
        BudgetLine(
            name=name, unit="", limit=limit, value=value, interval=interval, source=of,
            status="missed",
        )
        for name, (limit, value, interval, of) in rows.items()
    )  # fmt: skip
    document = VerdictDocument.model_construct(budgets=lines, memory=base.memory)
    return goals_of(document, base, 0.1)


@pytest.mark.parametrize(("high_mb", "fits"), [(8.99, True), (9.01, False)])
def test_the_end_of_predicted_memory_counts(high_mb, fits) -> None:
    """A part of the interval is constant."""
    base = of_memory(20.0, 22.0)
    wanted = goals_of_memory(base, 20.0, 22.0, "predicted")
    assert (wanted.misses(of_memory(8.0, high_mb)) == []) == fits


def test_measured_memory_counts_itself() -> None:
    """Its interval is that of chance: the ledger tells the difference only."""
    wanted = goals_of_memory(of_memory(20.0, 22.0), 21.0, 21.0, "measured")
    assert wanted.misses(of_memory(7.9, 12.0)) == []
    assert wanted.misses(of_memory(8.1, 8.2)) == ["peak_memory_mb"]
