"""The figure of peak memory for a budget, from peaks that were measured."""

from __future__ import annotations

from edgekit.budget import DECIDE, Figure
from edgekit.documents.memory import MemoryLedger

# Without a ledger: the runner's peak on an emulated 64-bit Arm board (full system, the kernel's
# VmHWM) minus its peak on x86-64, and the spread between models. docs/benchmarks.md, "Peak memory
# on a Raspberry Pi".
SHIFT_MB = -1.2
SPREAD_MB, SPREAD = 0.5, 0.08


def measured(peaks_mb: list[float]) -> Figure:
    """The figure for peaks of several processes on the target's architecture: their maximum."""
    return Figure(value=max(peaks_mb), source="measured", interval=(min(peaks_mb), max(peaks_mb)))


def predicted(host_peaks_mb: list[float], target: MemoryLedger | None) -> Figure:
    """The figure for another architecture: that of its ledger.

    The same program's peaks on this host do not make it better (docs/benchmarks.md). They are used
    if the runtime cannot tell the sizes for a ledger.
    """
    if target is not None:
        return Figure(
            value=target.peak_mb,
            source="predicted",
            interval=target.interval,
            note=f"predicted by the memory ledger, not measured: {DECIDE}",
        )
    low, high = min(host_peaks_mb) + SHIFT_MB, max(host_peaks_mb) + SHIFT_MB
    return Figure(
        value=high,
        source="predicted",
        interval=(low * (1 - SPREAD) - SPREAD_MB, high * (1 + SPREAD) + SPREAD_MB),
        note=f"predicted from the same program's peak on this host, not measured there: {DECIDE}",
    )
