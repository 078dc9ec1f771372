"""The slowest operators as a table, with the time of the rest of an inference."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgekit.documents.measure import REMAINDER, BenchDocument, OperatorTime
from edgekit.report.terminal import render

SLOWEST = 10


def slowest(document: BenchDocument) -> str:
    """The ten slowest operators and their shares, the sum of all others, and the remainder."""
    operators = [row for row in document.per_op if row.name != REMAINDER]
    if not operators:
        return ""
    whole_us = sum(row.mean_us for row in document.per_op)
    rows = sorted(operators, key=lambda row: row.mean_us, reverse=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("operator", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for row in rows[:SLOWEST]:
        table.add_row(_layer(row), escape(row.name), *_cells(row.mean_us, whole_us))
    others = rows[SLOWEST:]
    if others:
        others_us = sum(row.mean_us for row in others)
        table.add_row("", f"{len(others)} others", *_cells(others_us, whole_us))
    for row in document.per_op:
        if row.name == REMAINDER:
            table.add_row("", REMAINDER, *_cells(row.mean_us, whole_us))
    if document.profiled_ms is not None:
        table.add_row("", "one inference, profiled", *_cells(whole_us, whole_us))
    return render(table)


def _layer(row: OperatorTime) -> str:
    return "unknown" if row.layer is None else escape(row.layer) or "the model itself"


def _cells(us: float, whole_us: float) -> tuple[str, str]:
    time = f"{us:.2f} us" if us < 10 else f"{us:.1f} us"
    return time, f"{100 * us / whole_us:.1f} %" if whole_us else ""
