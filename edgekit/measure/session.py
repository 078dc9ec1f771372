"""The measurement of a bundle on a device: parity, then latency and memory. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.budget import Figure, Figures
from edgekit.bundle.manifest import Manifest
from edgekit.cost import memory
from edgekit.device.base import Transport
from edgekit.device.facts.canary import sing, speed_ratio
from edgekit.device.facts.conditions import Conditions, conditions
from edgekit.device.facts.probe import environment_of
from edgekit.device.facts.watch import watch
from edgekit.documents.environment import MeasuredEnvironment
from edgekit.documents.measure import LatencySummary, OperatorTime, Parity
from edgekit.measure.golden import Load, golden_inputs, require_golden
from edgekit.measure.latency import summarize
from edgekit.measure.operators import operator_times, runs_of_round
from edgekit.progress import Progress, Stage
from edgekit.runner.client import Installed, RunReport, measure
from edgekit.store.store import installed_on

# Each round is a new process: memory addresses, and with them the latency, vary between starts.
ROUNDS = 3


@dataclass(frozen=True)
class Measurement:
    """The measurements of a bundle on a device, and their conditions.

    ``swapped_mb``: the most that was swapped out, part of ``peaks_mb``; None if unknown.
    ``software``: as in RunReport.
    """

    parity: Parity
    latency: LatencySummary
    load_ms: float
    peaks_mb: tuple[float, ...]
    swapped_mb: float | None
    threads: int
    operators: tuple[OperatorTime, ...]
    profiled_ms: float | None
    conditions: Conditions
    software: dict[str, str] | None

    @property
    def environment(self) -> MeasuredEnvironment:
        return self.conditions.environment(self.threads, self.software)

    def figures(self) -> Figures:
        """The figures for budgets. The latency of an emulated device is not among them."""
        figures: Figures = {"peak_memory_mb": memory.measured(list(self.peaks_mb))}
        if self.conditions.before.emulated is False:
            figures["latency_ms"] = Figure(
                value=self.latency.median, source="measured", interval=self.latency.interval
            )
        return figures


EMULATED = "emulated: latency is not evidence for the real board"
PERHAPS_EMULATED = "the device may be emulated: latency is not evidence for a real board"


def latency_unknown_reason(emulated: bool | None) -> str:
    return EMULATED if emulated else PERHAPS_EMULATED


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
    with progress.stage("timing and profiling operators") as stage:
        # outside the watch, which would count the canary as another process
        speed = None if before.emulated else sing(transport)
        with watch(transport) as watching:
            timed, profiled = _rounds(installed, inputs, load, stage)
        canary = speed_ratio(speed, sing(transport)) if speed else None
    after = environment_of(transport)
    seen = conditions(
        before, watching.samples, after, _cpu_ms(timed + profiled), canary, watching.own_cpu_ms
    )
    operators, profiled_ms = operator_times(manifest.runtime.name, manifest.program, profiled)
    return Measurement(
        parity=parity,
        latency=summarize([report.latencies_ms for report in timed]),
        load_ms=sorted(report.load_ms for report in timed)[len(timed) // 2],
        peaks_mb=tuple(report.peak_memory_mb for report in timed),
        swapped_mb=max((r.swapped_mb for r in timed if r.swapped_mb is not None), default=None),
        threads=timed[0].threads,
        operators=operators,
        profiled_ms=profiled_ms,
        conditions=seen,
        software=timed[0].software,
    )


def _cpu_ms(reports: list[RunReport]) -> float | None:
    """CPU time of all runners; None if one is unknown."""
    known = [report.cpu_ms for report in reports if report.cpu_ms is not None]
    return sum(known) if len(known) == len(reports) else None


def _rounds(
    installed: Installed, inputs: list[bytes], load: Load, stage: Stage
) -> tuple[list[RunReport], list[RunReport]]:
    """Alternate timed and profiled processes, so that changes of the device affect both."""
    timed: list[RunReport] = []
    profiled: list[RunReport] = []
    runs = -(-load.runs // ROUNDS)
    for index in range(ROUNDS):
        timed.append(_round(installed, inputs, load, runs))
        if index == 0 or profiled[0].profile:  # some runners have none: tflite-runtime's
            times = runs_of_round(timed[0], runs)
            profiled.append(_round(installed, inputs, load, times, profile=True))
        stage.advance(index + 1, ROUNDS)
    return timed, profiled


def _round(
    installed: Installed, inputs: list[bytes], load: Load, runs: int, profile: bool = False
) -> RunReport:
    return measure(
        installed,
        inputs,
        runs=runs,
        warmup=load.warmup,
        threads=load.threads,
        timeout_s=load.timeout_s,
        profile=profile,
    )
