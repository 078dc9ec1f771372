"""The summary of latency samples from several processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.documents.measure import LatencySummary
from edgekit.measure.intervals import median_interval


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
