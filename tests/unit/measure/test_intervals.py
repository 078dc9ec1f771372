"""Intervals cover what they claim, for noise of any kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.measure.intervals import (
    LEAST_SAMPLES,
    LEVEL,
    coverage,
    median_interval,
    ratio_interval,
)

TRIALS = 1500
# Three standard errors of a share near 0.95 in TRIALS trials.
ERROR = 3 * math.sqrt(0.05 * 0.95 / TRIALS)
# Name -> samples, and the true median.
NOISE = {
    "normal": (lambda random, size: random.normal(size=size), 0.0),
    "skewed": (lambda random, size: random.exponential(size=size), math.log(2)),
    "heavy tail": (lambda random, size: random.standard_cauchy(size=size), 0.0),
    "with outliers": (
        lambda random, size: np.where(
            random.random(size) < 0.1, random.exponential(20, size), random.normal(size=size)
        ),
        None,
    ),
}


def measured_coverage(kind: str, count: int) -> float:
    draw, median = NOISE[kind]
    random = np.random.default_rng(count)
    if median is None:
        median = float(np.median(draw(np.random.default_rng(1), 1_000_000)))
    held = 0
    for samples in draw(random, (TRIALS, count)):
        low, high = median_interval(samples)
        held += low <= median <= high
    return held / TRIALS


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("count", [5, 6, 8, 9, 12, 20, 30])
def test_it_covers_the_true_median(kind, count) -> None:
    assert measured_coverage(kind, count) >= min(LEVEL, coverage(count)) - ERROR


@pytest.mark.parametrize("count", range(LEAST_SAMPLES, 31))
def test_the_stated_coverage_is_at_least_95_percent_and_not_wasteful(count) -> None:
    assert LEVEL <= coverage(count) < 0.994


def test_the_stated_coverage_is_the_real_one() -> None:
    for count in (3, 5, 9, 15):
        assert measured_coverage("skewed", count) == pytest.approx(coverage(count), abs=0.02)


def test_few_samples_give_their_range_and_its_coverage() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert [coverage(count) for count in (1, 2, 3, 4, 5)] == [0, 0.5, 0.75, 0.875, 0.9375]
    assert median_interval([7.0]) == (7.0, 7.0)
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])


def test_nine_ratios_leave_out_the_smallest_and_the_largest() -> None:
    ratios = [1.4, 1.1, 9.0, 1.2, 1.3, 0.1, 1.0, 0.9, 1.5]
    assert ratio_interval(ratios) == (1.2, 0.9, 1.5)


def test_reversed_ratios_give_the_reversed_interval() -> None:
    ratios = np.random.default_rng(0).lognormal(size=15)
    median, low, high = ratio_interval(list(ratios))
    assert ratio_interval(list(1 / ratios)) == pytest.approx((1 / median, 1 / high, 1 / low))


def test_many_samples_by_the_normal_approximation() -> None:
    exact, near = coverage(1000), coverage(1001)
    assert near == pytest.approx(exact, abs=0.005)
    samples = np.arange(100_000)
    low, high = median_interval(samples)
    assert (low + high) / 2 == pytest.approx(np.median(samples), abs=1)
    assert high - low == pytest.approx(1.96 * math.sqrt(100_000), rel=0.01)
