"""Which of two bundles --runtime auto keeps."""

from __future__ import annotations

import pytest

from edgekit.budget import BudgetLimits, BudgetName, Figure, judge, merge_limits
from edgekit.documents.verdict import Rung, VerdictDocument
from edgekit.pipeline.contest import Ratio, better

NO_LIMITS = BudgetLimits()


def bundle(limits: BudgetLimits = NO_LIMITS, **values: float) -> VerdictDocument:
    figures: dict[BudgetName, Figure] = {
        name: Figure(value=value, source="measured") for name, value in values.items()
    }
    lines = judge(merge_limits([("flag", limits)]), figures, {})
    return VerdictDocument.model_construct(runtime="executorch", budgets=tuple(lines), ladder=())


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


def test_a_loss_beyond_the_limit_comes_before_latency() -> None:
    exact, fast = bundle(accuracy_drop=0.5), bundle(accuracy_drop=50)
    assert not better(exact, fast, ratio(0.4, 0.5, 0.6))[0]
    assert better(exact, fast, ratio(0.4, 0.5, 0.6), allowed=60)[0]
    rungs = [Rung(precision="int8", taken=True, reason="", drop=drop) for drop in (0.5, 50)]
    judged = [bundle().model_copy(update={"ladder": (rung,)}) for rung in rungs]
    assert not better(*judged, ratio(0.4, 0.5, 0.6))[0]  # without evaluate()


def test_of_two_that_miss_by_about_as_much_the_faster_wins() -> None:
    limits = BudgetLimits(memory_mb=10)
    first, second = bundle(limits, peak_memory_mb=20.0), bundle(limits, peak_memory_mb=20.1)
    assert better(first, second, ratio(0.3, 0.33, 0.4))[0]


@pytest.mark.parametrize("middle", [0.5, 0.951, 0.9523, 0.96, 1.0, 1.049, 1.0501, 1.3])
def test_the_order_does_not_matter(middle: float) -> None:
    found = ratio(middle * 0.999, middle, middle * 1.001)
    first, second = bundle(size_mb=3), bundle(size_mb=5)
    assert better(first, second, found)[0] is not better(second, first, found.inverse)[0]


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
