"""Peak memory of the runner on a target, from its peak on this host."""

from __future__ import annotations

from edgekit.budget import Figure

# The runner's peak on an emulated 64-bit Arm board (full system, the kernel's VmHWM) minus its peak
# on x86-64, and the spread between models: docs/benchmarks.md, "Peak memory: predicted and
# measured".
SHIFT_MB = -1.2
SPREAD_MB, SPREAD = 0.5, 0.08


def measured(peaks_mb: list[float]) -> Figure:
    """The figure for peaks of several processes on the target's architecture: their maximum."""
    return Figure(value=max(peaks_mb), source="measured", interval=(min(peaks_mb), max(peaks_mb)))


def predicted(host_peaks_mb: list[float]) -> Figure:
    """The figure for another architecture, from the same program's peaks on this host."""
    low, high = min(host_peaks_mb) + SHIFT_MB, max(host_peaks_mb) + SHIFT_MB
    return Figure(
        value=high,
        source="predicted",
        interval=(low * (1 - SPREAD) - SPREAD_MB, high * (1 + SPREAD) + SPREAD_MB),
        note="predicted from the same program's peak on this host",
    )
