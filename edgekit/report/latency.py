"""The most expensive layers of a latency as text for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgekit.documents.latency import LatencyParts
from edgekit.report.operators import SLOWEST
from edgekit.report.terminal import ms, render

MOST_KINDS = 3


def latency_table(parts: LatencyParts | None) -> str:
    """The layers with the largest shares, all others, and the rest; '' if it is unknown."""
    if parts is None or not parts.latency_ms:
        return ""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("latency by layer", overflow="fold")
    table.add_column("operators", overflow="fold")
    for title in (parts.source, "share"):
        table.add_column(title, justify="right", no_wrap=True)
    ranked = _layers(parts)
    for layer, kinds, latency_ms in ranked[:SLOWEST]:
        table.add_row(escape(layer), escape(", ".join(kinds)), *_cells(latency_ms, parts))
    if others := ranked[SLOWEST:]:
        title = f"{len(others)} others"
        table.add_row(title, "", *_cells(sum(latency_ms for *_, latency_ms in others), parts))
    table.add_row("between operators", "", *_cells(parts.rest_ms, parts))
    return render(table)


def _layers(parts: LatencyParts) -> list[tuple[str, list[str], float]]:
    """Layer, kinds of its operators, latency in ms; the slowest first."""
    layers: dict[str, dict[str, float]] = {}
    for operator in parts.operators:
        kinds = layers.setdefault(_name(operator.layer), {})
        kinds[operator.kind] = kinds.get(operator.kind, 0.0) + operator.latency_ms
    rows = [
        (layer, sorted(kinds, key=lambda kind: -kinds[kind])[:MOST_KINDS], sum(kinds.values()))
        for layer, kinds in layers.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


def _name(layer: str | None) -> str:
    return "unknown" if layer is None else layer or "the model itself"


def _cells(latency_ms: float, parts: LatencyParts) -> tuple[str, str]:
    return ms(latency_ms), f"{100 * latency_ms / parts.latency_ms:.1f} %"
