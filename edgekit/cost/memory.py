"""The figure of peak memory for a budget, from peaks that were measured."""

from __future__ import annotations

from edgekit.budget import Figure
from edgekit.documents.memory import MemoryLedger

# The runner's peak on an emulated 64-bit Arm board (full system, the kernel's VmHWM) minus its peak
# on x86-64, without a ledger; and the spread between models with one: docs/benchmarks.md, "Peak
# memory: predicted and measured".
SHIFT_MB = -1.2
SPREAD_MB, SPREAD = 0.5, 0.08


def measured(peaks_mb: list[float]) -> Figure:
    """The figure for peaks of several processes on the target's architecture: their maximum."""
    return Figure(value=max(peaks_mb), source="measured", interval=(min(peaks_mb), max(peaks_mb)))


def predicted(
    host_peaks_mb: list[float],
    target: MemoryLedger | None = None,
    host: MemoryLedger | None = None,
) -> Figure:
    """The figure for another architecture, from the same program's peaks on this host.

    The difference between the two architectures is that of their ledgers, whose common errors
    cancel. Whether this is nearer than the target's ledger alone is open (docs/benchmarks.md).
    """
    known = target is not None and host is not None
    shift_mb = target.peak_mb - host.peak_mb if target and host else SHIFT_MB
    low, high = min(host_peaks_mb) + shift_mb, max(host_peaks_mb) + shift_mb
    return Figure(
        value=high,
        source="predicted",
        interval=(low * (1 - SPREAD) - SPREAD_MB, high * (1 + SPREAD) + SPREAD_MB),
        note="predicted from the same program's peak on this host"
        + (" and the memory ledger" if known else ""),
    )
