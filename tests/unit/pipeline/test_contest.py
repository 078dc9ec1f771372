"""Which of two bundles --runtime auto keeps."""

from __future__ import annotations

import pytest

from edgekit.budget import BudgetLimits, BudgetName, Figure, judge, merge_limits
from edgekit.documents.verdict import VerdictDocument
from edgekit.pipeline.contest import Ratio, better

NO_LIMITS = BudgetLimits()


def bundle(limits: BudgetLimits = NO_LIMITS, **values: float) -> VerdictDocument:
    figures: dict[BudgetName, Figure] = {
        name: Figure(value=value, source="measured") for name, value in values.items()
    }
    lines = judge(merge_limits([("flag", limits)]), figures, {})
    return VerdictDocument.model_construct(runtime="executorch", budgets=tuple(lines))


def ratio(low: float, middle: float, high: float, first_ms: float = 10, source="measured") -> Ratio:
    return Ratio(middle, low, high, first_ms, source, "on local")


def test_budgets_come_before_latency() -> None:
    limits = BudgetLimits(size_mb=5)
    first, second = bundle(limits, size_mb=8), bundle(limits, size_mb=4)
    assert better(first, second, ratio(1.9, 2, 2.1))[0]
    assert not better(second, first, ratio(0.4, 0.5, 0.6))[0]


def test_of_two_that_miss_the_nearer_wins() -> None:
    limits = BudgetLimits(size_mb=3)
    assert better(bundle(limits, size_mb=8), bundle(limits, size_mb=4), None)[0]


def test_a_known_value_that_fits_is_better_than_an_unknown_one() -> None:
    limits = BudgetLimits(latency_ms=20)
    assert better(bundle(limits), bundle(limits, latency_ms=10), None)[0]


def test_a_shown_difference_in_latency_decides() -> None:
    first, second = bundle(peak_memory_mb=5), bundle(peak_memory_mb=10)
    assert better(first, second, ratio(0.7, 0.8, 0.9))[0]
    assert not better(first, second, ratio(1.1, 1.2, 1.3))[0]


@pytest.mark.parametrize(
    "small",
    [
        ratio(0.9, 0.97, 0.99),  # shown, but small
        ratio(0.6, 0.8, 1.1),  # not shown
        ratio(0.7, 0.8, 0.9, first_ms=0.02),  # 4 us
    ],
)
def test_otherwise_accuracy_decides_and_then_memory(small: Ratio) -> None:
    first = bundle(accuracy_drop=0.9, peak_memory_mb=5)
    assert better(first, bundle(accuracy_drop=0.1, peak_memory_mb=10), small)[0]
    assert not better(first, bundle(accuracy_drop=0.8, peak_memory_mb=10), small)[0]
    assert better(first, bundle(accuracy_drop=0.8, peak_memory_mb=4), small)[0]


def test_a_prediction_that_shows_nothing_decides_before_memory() -> None:
    first, second = bundle(peak_memory_mb=5), bundle(peak_memory_mb=10)
    assert better(first, second, ratio(0.4, 0.8, 1.6, source="predicted"))[0]
    assert not better(second, first, ratio(0.6, 1.25, 2.5, source="predicted"))[0]


def test_the_first_wins_if_nothing_differs() -> None:
    one = bundle(accuracy_drop=0.1, peak_memory_mb=5, size_mb=4)
    assert not better(one, one, None)[0]
    assert not better(one, one, ratio(0.9, 1, 1.1))[0]


def test_a_ratio_turned_round() -> None:
    turned = ratio(0.4, 0.5, 0.8, first_ms=10).inverse
    assert (turned.low, turned.middle, turned.high, turned.first_ms) == (1.25, 2, 2.5, 5)
