"""The results of build and check as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from edgekit.budget import BudgetLine
from edgekit.documents.measure import Agreement, Emulation, Parity
from edgekit.documents.verdict import Advice, CheckDocument, VerdictDocument
from edgekit.report.compression import step_rows
from edgekit.report.latency import latency_table
from edgekit.report.memory import memory_table
from edgekit.report.operators import SLOWEST
from edgekit.report.runtimes import runtime_rows
from edgekit.report.search import search_rows
from edgekit.report.terminal import INTERVAL, grid, number, render, render_line

MEASURE_AGAIN = (
    "undecided, the limit is inside the interval; edgekit bench with more --runs decides it"
)
COLOR = {"ok": "green", "fits": "green", "missed": "red", "unknown": "yellow", "not_asked": "dim"}


def render_verdict(document: VerdictDocument) -> str:
    """A build's or a check's result."""
    rows = [
        ("target", f"{document.target} through {document.runtime}"),
        *runtime_rows(document.runtimes),
        *[("note", note) for note in document.notes],
        *step_rows(document.compression),
        *search_rows(document.search, document.relaxations),
        ("precision", _precision(document)),
        *[("against fp32", rung.payoff) for rung in document.ladder[-1:] if rung.payoff],
        ("accuracy", _accuracy(document)),
        ("parity", parity_line(document.parity)),
        *([("cpu", _cpu(document.emulation))] if isinstance(document, CheckDocument) else []),
        ("operators", _operators(document)),
        *(_advice(document.advice) or _outside(document)),
    ]
    text = grid(rows) + "\n" + budget_table(document.budgets) + undecided(document.budgets)
    if isinstance(document, CheckDocument):
        slowest = latency_table(document.latency)
        text += "\n" + memory_table(document.memory) + (slowest and "\n" + slowest)
    color = COLOR[document.verdict]
    return text + render_line(f"\n[{color}]{document.verdict}[/{color}]  {document.bundle}")


def _precision(document: VerdictDocument) -> str:
    lines = [
        f"{rung.precision}{' chosen' if rung.taken else ' not chosen'}: {rung.reason}"
        for rung in document.ladder
    ]
    return "\n".join(lines)


def _accuracy(document: VerdictDocument) -> str:
    if document.accuracy_text is not None:
        return document.accuracy_text
    notes = [line.note for line in document.budgets if line.name == "accuracy_drop"]
    return f"unknown: {notes[0] if notes and notes[0] else 'no evaluate()'}"


def parity_line(parity: Parity | None) -> str:
    if parity is None:
        return "not checked: no reference"
    verb = "passed" if parity.passed else "failed"
    inputs = f"{parity.compared} input{'s' if parity.compared != 1 else ''}"
    line = f"{verb} on {inputs} against {parity.reference}: {_level(parity)} ({parity.rule})"
    if parity.sequence is None:
        return line
    return f"{line}; states fed back, against the float model: {_level(parity.sequence)}"


def _cpu(run: Emulation) -> str:
    if run.status == "not_checked" or run.parity is None:
        return f"not checked: {run.reason}" + (f"\nto check: {run.hint}" if run.hint else "")
    own = f"this host's processor, {run.processor}"
    where = f"an emulated {run.processor}, {run.emulator}" if run.emulator else own
    return f"passed on {where}: {_level(run.parity)}"


def _level(parity: Agreement) -> str:
    if parity.sqnr_db is None:
        return "bit-equal"
    return f"max difference {parity.max_abs_diff:.2g}, SQNR {parity.sqnr_db:.1f} dB"


def _operators(document: VerdictDocument | CheckDocument) -> str:
    program = document.program
    quantized = sum(layer.quantized for layer in program.layers)
    floating = sum(layer.floating for layer in program.layers)
    outside = sum(operator.count for operator in program.outside)
    if _delegates_unknown(document):
        others = f" and {outside} other" if outside else ""
        return f"{quantized} int8, {floating} float{others}; delegates on the device unknown"
    return (
        f"{quantized} int8 and {floating} float in {len(program.delegates)} delegate "
        f"subgraphs, {outside or 'none'} outside"
    )


def _delegates_unknown(document: VerdictDocument | CheckDocument) -> bool:
    """Whether the device's runtime is another one than that which ran the program here."""
    return document.runtime == "tflite"


def _outside(document: VerdictDocument | CheckDocument) -> list[tuple[str, str]]:
    if _delegates_unknown(document):
        return []
    rows = [
        f"{item.operator} in {item.layer or 'the model itself'}"
        + (f" ({item.count} times)" if item.count > 1 else "")
        for item in document.program.outside
    ]
    if not rows:
        return []
    more = [f"and {len(rows) - SLOWEST} more"] if len(rows) > SLOWEST else []
    return [("slow kernels", "\n".join(rows[:SLOWEST] + more))]


def _advice(advice: Sequence[Advice]) -> list[tuple[str, str]]:
    lines = []
    for item in advice:
        layers = [layer or "the model itself" for layer in item.layers]
        more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
        calls = f" ({item.count} times)" if item.count > 1 else ""
        lines.append(f"{', '.join(item.operators)} in {', '.join(layers[:2])}{more}{calls}")
        if item.instead:
            lines.append(f"  write instead: {item.instead}")
    return [("slow kernels", "\n".join(lines))] if lines else []


def budget_table(lines: Sequence[BudgetLine]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("budget", "value", "", "limit", "status"):
        table.add_column(title, overflow="fold")
    for line in lines:
        limit = f"<= {line.limit:g} {line.unit} ({line.asked_by})" if line.limit is not None else ""
        color = COLOR[line.status]
        status = line.status.replace("_", " ")
        table.add_row(line.name, _value(line), _source(line), limit, f"[{color}]{status}[/{color}]")
    return render(table)


def undecided(lines: Sequence[BudgetLine]) -> str:
    """How a latency was predicted; and for each open budget, what would decide it."""
    rows = []
    for line in lines:
        is_open = line.status == "unknown"
        if line.source == "measured" and is_open:
            rows.append((line.name, MEASURE_AGAIN))
        elif line.source == "predicted" and line.note and (is_open or line.name == "latency_ms"):
            why = "undecided, the limit is inside the range; " if is_open else ""
            rows.append((line.name, why + line.note))
    return "\n" + grid(rows) if rows else ""


def _value(line: BudgetLine) -> str:
    if line.value is None:
        return "unknown"
    return f"{number(line.value)} {line.unit}"


def _source(line: BudgetLine) -> str:
    if line.value is None:
        return line.note or ""
    if line.interval is None or line.interval[0] == line.interval[1]:
        return str(line.source)
    # the interval of memory is the range of some runs, or of the prediction
    kind = INTERVAL if line.name == "latency_ms" and line.source == "measured" else "range"
    return f"{line.source}, {kind} {number(line.interval[0])}-{number(line.interval[1])}"
