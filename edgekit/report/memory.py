"""The memory ledger as text for a terminal."""

from __future__ import annotations

from rich.table import Table

from edgekit.documents.memory import MemoryLedger
from edgekit.report.terminal import render

UNKNOWN = "memory ledger: unknown (the bundle has none; build it again)\n"


def memory_table(ledger: MemoryLedger | None) -> str:
    """The parts at loading and at running, their sums, and the highest program point."""
    if ledger is None:
        return UNKNOWN
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("memory ledger", overflow="fold")
    for title in ("load", "run"):
        table.add_column(title, justify="right")
    table.add_column("")
    for part in ledger.parts:
        table.add_row(part.name, _mb(part.load_mb), _mb(part.run_mb), "")
    low, high = ledger.interval
    peak = f"peak {ledger.peak_mb:.2f} MB, predicted, range {low:.2f}-{high:.2f}"
    table.add_row("total", _mb(ledger.load_mb), _mb(ledger.run_mb), peak)
    return render(table) + _notes(ledger)


def _notes(ledger: MemoryLedger) -> str:
    lines = []
    if ledger.activations:
        point = ledger.activations[0]
        lines.append(
            f"most live activations: {point.live_mb:.2f} MB in {point.operator} "
            f"(operator {point.index} of its delegate)"
        )
    if ledger.measured_here_mb is not None:
        lines.append(f"measured on the build host: peak {ledger.measured_here_mb:.2f} MB")
    return "".join(f"{line}\n" for line in lines)


def _mb(value: float) -> str:
    return f"{value:.2f} MB" if value else "-"
