"""Documents as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from edgekit.budget import BudgetLine
from edgekit.documents import (
    Advice,
    Agreement,
    BenchDocument,
    CheckDocument,
    DeployDocument,
    Emulation,
    EvalDocument,
    LatencySummary,
    LsDocument,
    Parity,
    RunDocument,
    VerdictDocument,
)
from edgekit.report.compression import steps_said
from edgekit.report.operators import SLOWEST, slowest
from edgekit.report.terminal import grid, printed, styled
from edgekit.target import Target

COLOR = {"ok": "green", "fits": "green", "missed": "red", "unknown": "yellow", "not_asked": "dim"}
BARS = " ▁▂▃▄▅▆▇█"


def render_verdict(document: VerdictDocument) -> str:
    """A build's or a check's result."""
    program = document.program
    rows = [
        ("target", f"{document.target} through {document.runtime}"),
        *[("note", note) for note in document.notes],
        *steps_said(document.compression),
        ("precision", _precision(document)),
        *[("against fp32", rung.payoff) for rung in document.ladder[-1:] if rung.payoff],
        ("accuracy", _accuracy(document)),
        ("parity", _parity(document.parity)),
        *([("cpu", _cpu(document.emulation))] if isinstance(document, CheckDocument) else []),
        ("operators", _operators(program)),
        *(_advice(document.advice) or _outside(program)),
    ]
    text = grid(rows) + "\n" + _budgets(document.budgets)
    color = COLOR[document.verdict]
    return text + styled(f"\n[{color}]{document.verdict}[/{color}]  {document.bundle}")


def render_bench(document: BenchDocument) -> str:
    """A bench's result, with a sketch of the latency's distribution."""
    latency, environment = document.latency_ms, document.environment
    rows = [
        ("device", _device(document.device, environment)),
        ("parity", _parity(document.parity)),
        (
            "latency",
            f"median {_ms(latency.median)}  p95 {_ms(latency.p95)}  mean {_ms(latency.mean)}  "
            f"min {_ms(latency.min)}  ({len(latency.samples)} runs, {document.threads} "
            f"thread{'s' if document.threads > 1 else ''})",
        ),
        ("", f"the median lies within {_ms(latency.interval[0])} to {_ms(latency.interval[1])}"),
        ("", sketch(latency)),
        ("load", _ms(document.load_ms)),
        ("memory", f"peak {document.peak_memory_mb:.2f} MB"),
        ("conditions", _conditions(environment)),
        *_meanwhile(environment["during"]),
        *(("warning", text) for text in environment["warnings"]),
    ]
    text = grid(rows) + "\n" + slowest(document) + "\n" + _budgets(document.budgets)
    color = COLOR[document.verdict]
    return text + styled(f"\n[{color}]{document.verdict}[/{color}]  {document.bundle}")


def render_deploy(document: DeployDocument) -> str:
    state = "is current now" if document.changed else "was current already"
    rows = [
        ("device", document.device),
        ("release", f"{document.release} of {document.name} {state}"),
        ("sent", f"{_megabytes(document.sent_bytes)}, {_megabytes(document.reused_bytes)} reused"),
        ("path", document.path),
    ]
    return grid(rows)


def render_ls(document: LsDocument) -> str:
    if not document.bundles:
        return f"nothing is deployed on {document.device}\n"
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("name", "release", "size", ""):
        table.add_column(title)
    for row in document.bundles:
        mark = "current" if row.current else ""
        table.add_row(row.name, row.release, f"{row.size_mb:.2f} MB", mark)
    return printed(table)


def render_run(document: RunDocument) -> str:
    rows = [(row.name, f"{row.file}: {row.dtype} {list(row.shape)}") for row in document.outputs]
    return grid([("device", document.device), *rows, ("took", _ms(document.latency_ms))])


def render_eval(document: EvalDocument) -> str:
    host = "unknown" if document.host_accuracy is None else f"{document.host_accuracy:.2f}"
    rows = [
        ("device", document.device),
        ("accuracy", f"{document.accuracy:.2f} there, {host} on the host, when it was built"),
        ("inferences", str(document.inferences)),
    ]
    return grid([*rows, ("note", document.note)] if document.note else rows)


def render_targets(targets: Iterable[tuple[Target, Path]]) -> str:
    table = Table(box=None, pad_edge=False)
    for title in ("name", "architecture", "cpu", "cores", "memory", "runtimes", "what it is"):
        table.add_column(title)
    for target, _ in targets:
        table.add_row(
            target.name,
            target.architecture,
            target.cpu,
            str(target.cores),
            f"{target.memory_mb:g} MB" if target.memory_mb else "-",
            ", ".join(target.runtimes),
            target.description,
        )
    return printed(table)


def sketch(latency: LatencySummary, width: int = 40) -> str:
    """A histogram of the samples up to p95 and beyond, one character a bin."""
    low, high = latency.min, max(latency.p95, latency.min * 1.001)
    counts = [0] * width
    for sample in latency.samples:
        place = int((sample - low) / (high - low) * width)
        counts[min(place, width - 1)] += 1
    top = max(counts)
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in counts)
    return f"{_ms(low)} |{bars}| {_ms(high)}"


def _precision(document: VerdictDocument) -> str:
    lines = [
        f"{rung.precision}{' is taken' if rung.taken else ' is not taken'}: {rung.reason}"
        for rung in document.ladder
    ]
    return "\n".join(lines)


def _accuracy(document: VerdictDocument) -> str:
    if document.accuracy_said is not None:
        return document.accuracy_said
    notes = [line.note for line in document.budgets if line.name == "accuracy_drop"]
    return f"unknown: {notes[0] if notes and notes[0] else 'there is no evaluate()'}"


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return "not checked: there is no reference"
    verb = "passed" if parity.passed else "failed"
    inputs = f"{parity.compared} input{'s' if parity.compared != 1 else ''}"
    said = f"{verb} on {inputs} against {parity.reference}: {_level(parity)} ({parity.rule})"
    if parity.sequence is None:
        return said
    return f"{said}; states fed back, against the float model: {_level(parity.sequence)}"


def _cpu(found: Emulation) -> str:
    if found.status == "not_checked" or found.parity is None:
        return f"not checked: {found.reason}" + (f"\nto check: {found.hint}" if found.hint else "")
    own = f"this host's own processor, {found.processor}"
    where = f"an emulated {found.processor}, {found.emulator}" if found.emulator else own
    return f"passed on {where}: {_level(found.parity)}"


def _level(parity: Agreement) -> str:
    if parity.sqnr_db is None:
        return "bit-equal"
    return f"max difference {parity.max_abs_diff:.2g}, SQNR {parity.sqnr_db:.1f} dB"


def _operators(program: dict[str, Any]) -> str:
    quantized = sum(layer["quantized"] for layer in program["layers"])
    floating = sum(layer["floating"] for layer in program["layers"])
    outside = sum(operator["count"] for operator in program["outside"])
    return (
        f"{quantized} int8 and {floating} float in {len(program['delegates'])} delegate "
        f"subgraphs, {outside or 'none'} left outside"
    )


def _outside(program: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        f"{item['operator']} in {item['layer'] or 'the model itself'}"
        + (f" ({item['count']} times)" if item["count"] > 1 else "")
        for item in program["outside"]
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


def _budgets(lines: Sequence[BudgetLine]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("budget", "found", "", "asked for", "status"):
        table.add_column(title, overflow="fold")
    for line in lines:
        limit = f"<= {line.limit:g} {line.unit} ({line.asked_by})" if line.limit is not None else ""
        color = COLOR[line.status]
        status = line.status.replace("_", " ")
        table.add_row(line.name, _found(line), _how(line), limit, f"[{color}]{status}[/{color}]")
    return printed(table)


def _found(line: BudgetLine) -> str:
    if line.value is None:
        return "unknown"
    return f"{_number(line.value)} {line.unit}"


def _how(line: BudgetLine) -> str:
    if line.value is None:
        return line.note or ""
    if line.interval is None or line.interval[0] == line.interval[1]:
        return str(line.source)
    return f"{line.source}, {_number(line.interval[0])} to {_number(line.interval[1])}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _device(name: str, environment: dict[str, Any]) -> str:
    parts = [name, environment.get("model"), environment.get("cpu"), environment.get("os")]
    text = ", ".join(str(part) for part in parts if part)
    return text + (" (EMULATED: its latency means nothing)" if environment["emulated"] else "")


def _conditions(environment: dict[str, Any]) -> str:
    governor = environment.get("governor") or "not told"
    parts = [f"governor {governor}"]
    if environment.get("frequency_mhz"):
        parts.append(f"{environment['frequency_mhz']:.0f} MHz")
    if environment.get("temperature_c") is not None:
        parts.append(f"{environment['temperature_c']:.0f} C")
    if environment.get("load_1min") is not None:
        parts.append(f"load {environment['load_1min']:g} on {environment.get('cores')} cores")
    if environment.get("memory_available_mb") is not None:
        parts.append(f"{environment['memory_available_mb']:.0f} MB free")
    parts.append(f"kernel {environment.get('kernel')}")
    return ", ".join(parts)


def _meanwhile(during: dict[str, Any]) -> list[tuple[str, str]]:
    """What was seen while the runs were timed, as far as the device tells."""
    least, most = during["frequency_min_mhz"], during["frequency_max_mhz"]
    parts = []
    if most is not None:
        parts.append(f"{least:.0f} to {most:.0f} MHz" if least != most else f"{most:.0f} MHz")
    if during["temperature_max_c"] is not None:
        parts.append(f"up to {during['temperature_max_c']:.0f} C")
    if during["throttled"] is not None:
        parts.append(", ".join(during["throttled"]) or "not throttled")
    if during["others_percent_of_core"] is not None:
        parts.append(f"other processes {during['others_percent_of_core']:.0f} % of a core")
    if during["swap_used_max_mb"]:
        parts.append(f"{during['swap_used_max_mb']:.0f} MB of swap")
    return [("", f"meanwhile {', '.join(parts)} ({during['samples']} samples)")] if parts else []


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _ms(value: float) -> str:
    if value < 0.1:
        return f"{value * 1000:.1f} us"
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"
