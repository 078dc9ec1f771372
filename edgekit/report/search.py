"""What a search tried, as text for a terminal: a table with a bar for each loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from edgekit.documents.search import SearchPoint, SearchReport
from edgekit.documents.verdict import Relaxation
from edgekit.report.terminal import number, render

BAR = 20


def search_rows(
    report: SearchReport | None, relaxations: Sequence[Relaxation]
) -> Iterator[tuple[str, str]]:
    """Why a search started, how it ended, its constraints, and what would have to be relaxed."""
    if report is not None:
        yield "search", f"because {report.reason}: {report.end}"
        for bound in report.constraints:
            yield "constraint", f"{bound.constraint}: {', '.join(bound.held)}"
    for relaxation in relaxations:
        budgets = " and ".join(f"{name} {number(v)}" for name, v in relaxation.budgets.items())
        yield "would fit", f"with {budgets}" + ("" if relaxation.verified else " (predicted)")


def search_table(report: SearchReport | None) -> str:
    """All models that were tried, smallest loss first; '' if there were none."""
    if report is None or not report.points:
        return ""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("tried", "MACs", "loss", "", "trained", "latency", "memory", "size", ""):
        table.add_column(title, overflow="fold")
    most = max(point.loss for point in report.points) or 1.0
    for point in sorted(report.points, key=lambda one: one.loss):
        table.add_row(
            _name(point),
            f"{point.macs:.0%}",
            f"{point.loss:.3g}",
            "█" * max(1, round(BAR * min(1.0, point.loss / most))),
            "-" if point.recovered_loss is None else f"{point.recovered_loss:.3g}",
            _figure(point.latency_ms, "ms") + _range(point.latency_interval_ms),
            _figure(point.peak_memory_mb, "MB"),
            _figure(point.size_mb, "MB"),
            ("[green]chosen[/green]: " if point.kept else "") + point.why,
        )
    return render(table)


def _name(point: SearchPoint) -> str:
    parts = ["{}x{} pixels".format(*point.input_size)] if point.input_size else []
    if point.dropped:
        parts.append(f"without {', '.join(point.dropped)}")
    return ", ".join(parts) or "channels only"


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else " ({}-{})".format(*map(number, interval))


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{number(value)} {unit}"
