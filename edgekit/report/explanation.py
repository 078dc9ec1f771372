"""The result of explain as text: candidates, int8-sensitive layers, the cost of each fix."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from edgekit.documents.verdict import Blame, Rung, VerdictDocument
from edgekit.report.compression import refused_rows, step_rows, width_rows
from edgekit.report.latency import latency_table
from edgekit.report.memory import memory_table
from edgekit.report.runtimes import runtime_rows
from edgekit.report.search import search_rows, search_table
from edgekit.report.terminal import grid, render

FIXES = {
    "range": "better range",
    "equalization": "equalization",
    "float": "keep it float",
}
SMALLER = {"MB": "kB", "ms": "us"}
NOTHING_LOST = "plain int8 lost 0.5 points or less: no layer was examined"
NOT_MEASURED = (
    "no layer was examined: plain int8 was not built, it lost little more than compression did, "
    "or --effort quick was set"
)


def render_explanation(document: VerdictDocument) -> str:
    plan = document.plan
    rows = [
        ("bundle", document.bundle),
        *runtime_rows(document.runtimes),
        *step_rows(document.compression),
        *width_rows(document.compression),
        *refused_rows(document.compression),
        *search_rows(document.search, document.relaxations),
        ("precision", plan.precision),
        ("accuracy", _accuracy(document)),
        ("candidates", _ladder(document.ladder)),
        ("float layers", ", ".join(plan.float_layers) or "none chosen"),
    ]
    if not document.blame:
        drops = [rung.drop for rung in document.ladder if rung.precision == "int8"]
        little = any(drop is not None and drop <= 0.5 for drop in drops)
        text = grid([*rows, ("sensitivity", NOTHING_LOST if little else NOT_MEASURED)])
    else:
        text = grid(rows) + "\n" + _blame(document.blame)
    tables = (
        search_table(document.search),
        memory_table(document.memory) if document.memory is not None else "",
        latency_table(document.latency),
    )
    for table in tables:
        text += table and "\n" + table
    return text


def _accuracy(document: VerdictDocument) -> str:
    accuracy = document.accuracy
    if accuracy.fp32 is None or accuracy.artifact is None:
        return "unknown: no evaluate()"
    lost = accuracy.fp32 - accuracy.artifact
    return f"{document.accuracy_text}: {lost:.2f} points lost"


def _ladder(ladder: Sequence[Rung]) -> str:
    lines = []
    for rung in ladder:
        chosen = "chosen" if rung.taken else "not chosen"
        lines.append(f"{rung.precision} {chosen}: {rung.reason}")
    return "\n".join(lines)


def _blame(rows: Sequence[Blame]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    titles = (
        "int8-sensitive layers",
        "loss alone",
        "recovered if float",
        "fix",
        "size",
        "latency",
        "",
    )
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title != titles[0])
    for row in rows:
        table.add_row(
            f"{row.layer or '(the model itself)'}, {row.kind}",
            _lost(row),
            "-" if row.regained is None else f"{100 * row.regained:.0f} %",
            FIXES.get(row.fix or "", row.fix or "none known"),
            _cost(row.cost_size_mb, "MB"),
            _cost(row.cost_latency_ms, "ms"),
            "applied" if row.applied else "not applied",
        )
    return render(table)


def _lost(row: Blame) -> str:
    if row.drop is not None:
        return f"{row.drop:.1f} points"
    return "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"


def _cost(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if value == 0:
        return "nothing"
    if abs(value) < 0.1:
        return f"{1000 * value:+.2g} {SMALLER[unit]}"
    return f"{value:+.3g} {unit}"
