"""What a search holds an artifact's costs against, so that a whole interval meets the limit."""

from __future__ import annotations

import pytest

from edgekit.budget import Figure, Origin
from edgekit.documents.memory import MemoryLedger
from edgekit.pipeline.fit.goals import Goals
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


@pytest.mark.parametrize(("high_mb", "fits"), [(8.99, True), (9.01, False)])
def test_the_end_of_predicted_memory_counts(high_mb, fits) -> None:
    base = of_memory(20.0, 22.0)
    wanted = Goals(None, 9.0 * 20.0 / 22.0, None, base, 20.0, 3.0, 22.0)
    assert (wanted.misses(of_memory(8.0, high_mb)) == []) == fits


def test_measured_memory_counts_itself() -> None:
    wanted = Goals(None, 9.0, None, of_memory(20.0, 22.0), 21.0, 3.0)
    assert wanted.misses(of_memory(7.9, 12.0)) == []
    assert wanted.misses(of_memory(8.1, 8.2)) == ["peak_memory_mb"]
