"""The result of bench as text for a terminal."""

from __future__ import annotations

from edgekit.documents.environment import During, MeasuredEnvironment
from edgekit.documents.measure import BenchDocument, LatencySummary
from edgekit.report.operators import slowest
from edgekit.report.terminal import INTERVAL, grid, ms, render_line
from edgekit.report.verdict import COLOR, budget_table, parity_line

BARS = " ▁▂▃▄▅▆▇█"


def render_bench(document: BenchDocument) -> str:
    """A bench's result, with a sketch of the latency's distribution."""
    latency, environment = document.latency_ms, document.environment
    rows = [
        ("device", _device(document.device, environment)),
        *_software(environment.software),
        ("parity", parity_line(document.parity)),
        (
            "latency",
            f"median {ms(latency.median)}  p95 {ms(latency.p95)}  mean {ms(latency.mean)}  "
            f"min {ms(latency.min)}  ({len(latency.samples)} runs, {document.threads} "
            f"thread{'s' if document.threads > 1 else ''})",
        ),
        (
            "",
            f"median {INTERVAL} {ms(latency.interval[0])}-{ms(latency.interval[1])}",
        ),
        ("", sketch(latency)),
        ("load", ms(document.load_ms)),
        ("memory", _memory(document)),
        ("conditions", _conditions(environment)),
        *_during(environment.during),
        *(("warning", text) for text in environment.warnings),
    ]
    text = grid(rows) + "\n" + slowest(document) + "\n" + budget_table(document.budgets)
    color = COLOR[document.verdict]
    return text + render_line(f"\n[{color}]{document.verdict}[/{color}]  {document.bundle}")


def _memory(document: BenchDocument) -> str:
    peak = f"peak {document.peak_memory_mb:.2f} MB"
    if not document.swapped_mb:
        return peak
    return f"{peak}, {document.swapped_mb:.2f} MB of it swapped out (latency suffers)"


def sketch(latency: LatencySummary, width: int = 40) -> str:
    """A histogram of the samples, one character per bin; the last bin has all beyond p95."""
    low, high = latency.min, max(latency.p95, latency.min * 1.001)
    counts = [0] * width
    for sample in latency.samples:
        place = int((sample - low) / (high - low) * width)
        counts[min(place, width - 1)] += 1
    top = max(counts)
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in counts)
    return f"{ms(low)} |{bars}| {ms(high)}"


def _device(name: str, environment: MeasuredEnvironment) -> str:
    parts = [name, environment.model, environment.cpu, environment.os]
    text = ", ".join(str(part) for part in parts if part)
    return text + (" (EMULATED)" if environment.emulated else "")


def _software(versions: dict[str, str] | None) -> list[tuple[str, str]]:
    return [("software", ", ".join(f"{n} {v}" for n, v in versions.items()))] if versions else []


def _conditions(environment: MeasuredEnvironment) -> str:
    governor = environment.governor or "unknown"
    parts = [f"governor {governor}"]
    if environment.frequency_mhz:
        parts.append(f"{environment.frequency_mhz:.0f} MHz")
    if environment.temperature_c is not None:
        parts.append(f"{environment.temperature_c:.0f} C")
    if environment.load_1min is not None:
        parts.append(f"load {environment.load_1min:g} on {environment.cores} cores")
    if environment.memory_available_mb is not None:
        parts.append(f"{environment.memory_available_mb:.0f} MB free")
    parts.append(f"kernel {environment.kernel}")
    return ", ".join(parts)


def _during(during: During) -> list[tuple[str, str]]:
    """A row on the device during the timed runs, with what is known."""
    least, most = during.frequency_min_mhz, during.frequency_max_mhz
    parts = []
    if most is not None:
        parts.append(f"{least:.0f} to {most:.0f} MHz" if least != most else f"{most:.0f} MHz")
    if during.temperature_max_c is not None:
        parts.append(f"up to {during.temperature_max_c:.0f} C")
    if during.throttled is not None:
        parts.append(", ".join(during.throttled) or "not throttled")
    if during.others_percent_of_core is not None:
        parts.append(f"other processes {during.others_percent_of_core:.0f} % of a core")
    if during.swap_used_max_mb:
        parts.append(f"{during.swap_used_max_mb:.0f} MB of swap")
    return (
        [("", f"during the runs: {', '.join(parts)} ({during.samples} samples)")] if parts else []
    )
