"""Confidence intervals of medians. All intervals that edgekit reports come from here.

They are intervals by order statistics (the inverted sign test): they assume independent samples
and nothing about the distribution, so that skewed and heavy-tailed noise is covered too. The
coverage is exact by the binomial distribution; source: Hahn and Meeker, Statistical Intervals
(1991), section 5.2. A bootstrap of the median covers less than it claims for few samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

LEVEL = 0.95
# With fewer samples even the smallest to the largest covers less than 95 %.
LEAST_SAMPLES = 6
# Above, the normal approximation of the binomial is within one rank.
EXACT_UP_TO = 1000
Z = 1.959964


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median of ``ratios`` with its 95 % interval (median, low, high).

    With fewer than LEAST_SAMPLES ratios the interval is the smallest to the largest, which
    covers ``coverage(len(ratios))``.
    """
    return float(np.median(ratios)), *median_interval(ratios)


def median_interval(samples: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float]:
    """The 95 % interval of the median; with fewer than LEAST_SAMPLES, the smallest to the largest.

    Samples of one process are not independent: combine several processes (measure/latency.py).
    Raises ValueError without samples.
    """
    if len(samples) == 0:
        raise ValueError("an interval needs at least one sample")
    ordered = np.sort(np.asarray(samples, dtype=float))
    rank = _rank(len(ordered))
    return float(ordered[rank - 1]), float(ordered[-rank])


def coverage(count: int) -> float:
    """The probability that ``median_interval`` of ``count`` samples holds the true median."""
    return 1 - 2 * _probability_below(_rank(count), count)


@lru_cache
def _rank(count: int) -> int:
    """The largest rank r with a coverage of at least LEVEL for ranks r to count + 1 - r; else 1."""
    if count > EXACT_UP_TO:
        return math.floor(count / 2 - Z * math.sqrt(count) / 2)
    limit = (1 - LEVEL) / 2 * 2**count
    below, rank = 0, 0
    while (below := below + math.comb(count, rank)) <= limit:
        rank += 1
    return max(rank, 1)


def _probability_below(rank: int, count: int) -> float:
    """The probability that fewer than ``rank`` of ``count`` samples are below the median."""
    if count > EXACT_UP_TO:
        return math.erfc((count / 2 - rank + 0.5) / math.sqrt(count / 2)) / 2
    return float(sum(math.comb(count, one) for one in range(rank)) / 2**count)
