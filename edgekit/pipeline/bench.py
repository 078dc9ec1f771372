"""bench: what a bundle really does on a device. Parity first. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.budget import Figure, Figures, judge, verdict_of
from edgekit.bundle.manifest import Manifest
from edgekit.cost import memory
from edgekit.device.base import Transport
from edgekit.device.connect import connect
from edgekit.device.facts.parse import Environment, parse_environment
from edgekit.device.facts.probe import probe
from edgekit.device.local import LocalTransport
from edgekit.documents import BenchDocument, LatencySummary, OperatorTime, Parity
from edgekit.errors import BundleError, ParityError, RunnerError
from edgekit.measurement.agreement import OutputsAgreement, device_passes
from edgekit.measurement.latency import summarize
from edgekit.pipeline.check import figures_of, open_bundle
from edgekit.pipeline.stage import installed_at
from edgekit.program import TensorSpec
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Installed, RunReport, Serving, measure
from edgekit.runner.tensors import decode, every, expand

DEFAULT_RUNS = 60
DEFAULT_WARMUP = 5
# A fresh process each: where memory lands differs from start to start, and with it the latency.
ROUNDS = 3
PROFILE_RUNS = 20


@dataclass(frozen=True)
class Load:
    """How a bench loads a device. ``timeout_s`` is for each process of the runner."""

    threads: int
    runs: int = DEFAULT_RUNS
    warmup: int = DEFAULT_WARMUP
    timeout_s: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured on a device; the environment is that before the first run."""

    parity: Parity
    latency: LatencySummary
    load_ms: float
    peaks_mb: tuple[float, ...]
    threads: int
    operators: tuple[OperatorTime, ...]
    environment: Environment

    def figures(self) -> Figures:
        """As budgets count them. An emulated device's latency counts for nothing."""
        found: Figures = {"peak_memory_mb": memory.measured(list(self.peaks_mb))}
        if self.environment.emulated is False:
            found["latency_ms"] = Figure(
                value=self.latency.median, source="measured", interval=self.latency.interval
            )
        return found


EMULATED = "measured on an emulated device: no evidence of the real one's latency"


def bench(
    bundle: str | Path,
    device: str = "local",
    *,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    timeout_s: float | None = None,
    progress: Progress | None = None,
) -> BenchDocument:
    """Benchmark a bundle by its own runner: parity, latency, memory, operators, environment.

    Raises BundleError (damaged, or of another architecture), ParityError, RunnerError.
    """
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    transport = connect(device)
    load = Load(threads or manifest.threads, runs, warmup, timeout_s)
    found = measure_bundle(folder, manifest, transport, load, progress or Silent())
    figures = figures_of(manifest, record) | found.figures()
    missing = dict(record.missing)
    if "latency_ms" not in found.figures():
        figures.pop("latency_ms", None)
        missing["latency_ms"] = EMULATED
    lines = judge(record.limits, figures, missing)
    return BenchDocument(
        schema_="edgekit.bench/1",
        bundle=str(folder),
        target=manifest.target,
        device=transport.name,
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
    folder: Path, manifest: Manifest, transport: Transport, load: Load, progress: Progress
) -> Measurement:
    """Measure a verified bundle. Raises as bench does."""
    environment = parse_environment(probe(transport))
    refuse_other_architecture(manifest, environment)
    installed = installed_at(_local(transport), folder, manifest.model)
    inputs = golden_inputs(folder, manifest)
    with progress.stage("checking parity on the device"):
        parity = require_golden(folder, manifest, installed, inputs, load)
    with progress.stage("timing") as stage:
        reports = []
        for index in range(ROUNDS):
            reports.append(_round(installed, inputs, load, -(-load.runs // ROUNDS)))
            stage.advance(index + 1, ROUNDS)
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
        environment=environment,
    )


def refuse_other_architecture(manifest: Manifest, environment: Environment) -> None:
    wanted, found = manifest.needs.architecture, environment.architecture
    if found is not None and found != wanted:
        raise BundleError(
            f"the bundle is for {wanted} (target {manifest.target}), but this device is {found}",
            "bench it on its own device, or build for this one: edgekit build --target x86",
        )


def golden_inputs(folder: Path, manifest: Manifest) -> list[bytes]:
    return [
        expand((folder / path).read_bytes(), spec.byte_count)
        for path, spec in zip(manifest.golden.inputs, manifest.program.inputs, strict=True)
    ]


def require_golden(
    folder: Path, manifest: Manifest, installed: Installed, inputs: list[bytes], load: Load
) -> Parity:
    """Run the golden inputs on the device. Raises ParityError unless the outputs agree."""
    with Serving(installed, load.threads, load.timeout_s) as serving:
        results = serving.infer(inputs)
    specs, golden = manifest.program.outputs, manifest.golden
    agreement = OutputsAgreement(len(specs))
    expected = [(folder / path).read_bytes() for path in golden.outputs]
    agreement.add(
        [
            decode(every(data, spec.dtype, stride), spec.dtype)
            for data, spec, stride in zip(results, specs, golden.output_strides, strict=True)
        ],
        [decode(data, spec.dtype) for data, spec in zip(expected, specs, strict=True)],
    )
    int8 = manifest.plan.precision == "int8"
    steps = [
        _step(spec, data) if int8 else None for spec, data in zip(specs, expected, strict=True)
    ]
    parity = Parity(
        **agreement.worst().model_dump(),
        passed=device_passes(agreement, steps),
        reference="the bundle's golden outputs",
        rule="within 2 steps of the output's scale" if int8 else "max|a-b| / max|b| <= 1e-4",
        compared=1,
    )
    if not parity.passed:
        raise ParityError(
            f"the device computes something else than the host did: the outputs differ from "
            f"{parity.reference} by up to {parity.max_abs_diff:.3g}; required is {parity.rule}",
            "no measurement was taken: a wrong result's latency is worth nothing",
        )
    return parity


def environment_dict(found: Measurement) -> dict[str, Any]:
    return {**found.environment.to_dict(), "threads": found.threads}


def _step(spec: TensorSpec, expected: bytes) -> float:
    """One int8 step of an output; where its last operator is float, a 255th of its range."""
    if spec.quantization is not None:
        return spec.quantization.scale
    values = decode(expected, spec.dtype).astype("float64")
    return float(values.max() - values.min()) / 255 if values.size else 0.0


def _round(installed: Installed, inputs: list[bytes], load: Load, runs: int) -> RunReport:
    return measure(
        installed,
        inputs,
        runs=runs,
        warmup=load.warmup,
        threads=load.threads,
        timeout_s=load.timeout_s,
    )


def _local(transport: Transport) -> LocalTransport:
    if not isinstance(transport, LocalTransport):
        raise RunnerError(f"a bundle cannot be installed on {transport.name} by this version")
    return transport
