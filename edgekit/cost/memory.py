"""Peak memory of the runner on a target, from its peak on this host."""

from __future__ import annotations

from edgekit.budget import Figure

# The runner's peak on an emulated 64-bit Arm board (full system, the kernel's VmHWM) divided by
# its peak on x86-64: docs/benchmarks.md, "Peak memory: predicted and measured".
RATIO = 1.0
RATIO_LOW, RATIO_HIGH = 0.85, 1.15


def measured(peaks_mb: list[float]) -> Figure:
    """Peaks of several processes on the target's own architecture: the largest counts."""
    return Figure(value=max(peaks_mb), source="measured", interval=(min(peaks_mb), max(peaks_mb)))


def predicted(host_peaks_mb: list[float]) -> Figure:
    """The same program's peaks on this host, carried over to another architecture."""
    return Figure(
        value=max(host_peaks_mb) * RATIO,
        source="predicted",
        interval=(min(host_peaks_mb) * RATIO_LOW, max(host_peaks_mb) * RATIO_HIGH),
        note="predicted from the same program's peak on this host",
    )
