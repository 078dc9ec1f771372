"""Latency statistics: medians and their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.documents.measure import LatencySummary


def summarize(rounds: Sequence[Sequence[float]]) -> LatencySummary:
    """Summarize samples in milliseconds from several rounds, each of a new process.

    The interval spans the 95 % interval of the pooled samples' median and the medians of all
    rounds: a process may be slow from its start, which more runs of it do not correct.
    """
    samples = np.array([sample for one in rounds for sample in one])
    low, high = median_interval(samples)
    medians = [float(np.median(one)) for one in rounds]
    return LatencySummary(
        median=float(np.median(samples)),
        p95=float(np.percentile(samples, 95)),
        mean=float(samples.mean()),
        min=float(samples.min()),
        samples=tuple(float(sample) for sample in samples),
        interval=(min(low, *medians), max(high, *medians)),
    )


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median of ``ratios`` with its 95 % bootstrap interval (median, low, high)."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def median_interval(samples: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """The 95 % interval of the median by order statistics: the ranks n/2 -+ 1.96 sqrt(n)/2.

    Distribution-free; see Hahn and Meeker, Statistical Intervals (1991), section 5.2.
    """
    ordered = np.sort(samples)
    half_width = 1.96 * np.sqrt(len(ordered)) / 2
    low = max(0, int(np.floor(len(ordered) / 2 - half_width)))
    high = min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half_width)))
    return float(ordered[low]), float(ordered[high])
