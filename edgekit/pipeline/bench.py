"""bench: what a bundle really does on a device. Parity first. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.budget import Figure, Figures, judge, verdict_of
from edgekit.bundle.manifest import Manifest
from edgekit.cost import memory
from edgekit.device.base import Transport
from edgekit.device.facts.conditions import Conditions, conditions
from edgekit.device.facts.probe import environment_of
from edgekit.device.facts.watch import watch
from edgekit.documents import BenchDocument, LatencySummary, OperatorTime, Parity
from edgekit.measurement.latency import summarize
from edgekit.pipeline.check import figures_of, open_bundle
from edgekit.pipeline.deploy import installed_on, peak_of, reaching
from edgekit.pipeline.golden import (
    DEFAULT_RUNS,
    DEFAULT_WARMUP,
    Load,
    golden_inputs,
    require_golden,
)
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Installed, RunReport, measure

# A fresh process each: where memory lands differs from start to start, and with it the latency.
ROUNDS = 3
PROFILE_RUNS = 20


@dataclass(frozen=True)
class Measurement:
    """What was measured on a device, and under which conditions."""

    parity: Parity
    latency: LatencySummary
    load_ms: float
    peaks_mb: tuple[float, ...]
    threads: int
    operators: tuple[OperatorTime, ...]
    conditions: Conditions

    def figures(self) -> Figures:
        """As budgets count them. An emulated device's latency counts for nothing."""
        found: Figures = {"peak_memory_mb": memory.measured(list(self.peaks_mb))}
        if self.conditions.before.emulated is False:
            found["latency_ms"] = Figure(
                value=self.latency.median, source="measured", interval=self.latency.interval
            )
        return found


EMULATED = "measured on an emulated device: no evidence of the real one's latency"
PERHAPS_EMULATED = "the device does not tell whether it is emulated: its latency is no evidence"


def why_no_latency(emulated: bool | None) -> str:
    return EMULATED if emulated else PERHAPS_EMULATED


def bench(
    bundle: str | Path,
    device: str = "local",
    *,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    timeout_s: float | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> BenchDocument:
    """Benchmark a bundle by its own runner: parity, latency, memory, operators, environment.

    The bundle's release is installed where the device does not have it; the current one stays.
    Raises BundleError, DeviceError, PreflightError (of another architecture, say), StoreError,
    ParityError, RunnerError.
    """
    progress = progress or Silent()
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    load = Load(threads or manifest.threads, runs, warmup, timeout_s)
    with reaching(device, accept_new_host_key, progress) as transport:
        found = measure_bundle(folder, manifest, peak_of(record), transport, load, progress)
    figures = figures_of(manifest, record) | found.figures()
    missing = dict(record.missing)
    if "latency_ms" not in found.figures():
        figures.pop("latency_ms", None)
        missing["latency_ms"] = why_no_latency(found.conditions.before.emulated)
    lines = judge(record.limits, figures, missing)
    return BenchDocument(
        schema_="edgekit.bench/1",
        bundle=str(folder),
        target=manifest.target,
        device=device,
        threads=found.threads,
        latency_ms=found.latency,
        load_ms=found.load_ms,
        peak_memory_mb=max(found.peaks_mb),
        parity=found.parity,
        per_op=found.operators,
        environment=environment_dict(found),
        budgets=tuple(lines),
        verdict=verdict_of(lines),
    )


def measure_bundle(
    folder: Path,
    manifest: Manifest,
    peak_memory_mb: float | None,
    transport: Transport,
    load: Load,
    progress: Progress,
) -> Measurement:
    """Measure a verified bundle. Raises as bench does."""
    before = environment_of(transport)
    installed = installed_on(transport, folder, manifest, peak_memory_mb, progress)
    inputs = golden_inputs(folder, manifest)
    with progress.stage("checking parity on the device"):
        parity = require_golden(folder, manifest, installed, inputs, load)
    with progress.stage("timing") as stage, watch(transport) as watching:
        reports = []
        for index in range(ROUNDS):
            reports.append(_round(installed, inputs, load, -(-load.runs // ROUNDS)))
            stage.advance(index + 1, ROUNDS)
    after = environment_of(transport)
    with progress.stage("profiling operators"):
        profiled = measure(
            installed,
            inputs,
            runs=min(load.runs, PROFILE_RUNS),
            warmup=load.warmup,
            threads=load.threads,
            timeout_s=load.timeout_s,
            profile=True,
        )
    return Measurement(
        parity=parity,
        latency=summarize([report.latencies_ms for report in reports]),
        load_ms=sorted(report.load_ms for report in reports)[len(reports) // 2],
        peaks_mb=tuple(report.peak_memory_mb for report in reports),
        threads=reports[0].threads,
        operators=tuple(
            OperatorTime(name=row.name, mean_us=row.mean_us, delegated=row.delegated)
            for row in profiled.profile
        ),
        conditions=conditions(before, watching.samples, after, _cpu_ms(reports)),
    )


def environment_dict(found: Measurement) -> dict[str, Any]:
    """The device as it was before, flat; what changed meanwhile, and what it means, beside it."""
    seen = found.conditions
    return {**seen.before.to_dict(), "threads": found.threads, **seen.to_dict()}


def _cpu_ms(reports: list[RunReport]) -> float | None:
    """CPU time of all runners; None where one does not tell."""
    told = [report.cpu_ms for report in reports if report.cpu_ms is not None]
    return sum(told) if len(told) == len(reports) else None


def _round(installed: Installed, inputs: list[bytes], load: Load, runs: int) -> RunReport:
    return measure(
        installed,
        inputs,
        runs=runs,
        warmup=load.warmup,
        threads=load.threads,
        timeout_s=load.timeout_s,
    )
