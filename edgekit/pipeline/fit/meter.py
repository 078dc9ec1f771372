"""The costs of one artifact on the target: measured on the device, else predicted.

Memory is the ledger's, not measured here: a search that ran twice must find the same plan.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.budget import Figure
from edgekit.cost.ledger import ledger
from edgekit.cost.prediction import predicted_latency
from edgekit.cost.shapes import OperatorShape, OperatorTimes
from edgekit.documents.latency import CostSource
from edgekit.documents.memory import MemoryLedger
from edgekit.measure.golden import golden_inputs
from edgekit.measure.operators import mean_rows, timed_shapes
from edgekit.measure.paired_latency import MeasuringDevice, Timed
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_serving, to_bytes
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.package import package
from edgekit.pipeline.precision.lower import lower, lower_for_costs
from edgekit.pipeline.result import BuildResult, unjudged
from edgekit.plan import Plan
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged
from edgekit.runtimes.base import OTHER_RUNNER
from edgekit.target import Target


@dataclass(frozen=True)
class Cost:
    """``latency``: None if unknown, for the reason in ``why_not``. ``times``: by operator, None if
    unknown. ``memory``: None if the runtime cannot tell sizes. ``shapes``: the operators.
    """

    latency: Figure | None
    times: OperatorTimes | None
    memory: MemoryLedger | None
    model_mb: float
    shapes: tuple[OperatorShape, ...]
    why_not: str = ""
    source: CostSource = "emulated"


@dataclass(frozen=True)
class Lowered:
    """An artifact that is ready to be timed. ``known``: its costs without the latency."""

    result: BuildResult
    known: Cost


@dataclass(frozen=True)
class Meter:
    """Costs on one target. ``device``: measures there, if given. ``times``: whether anybody wants
    to know latencies.
    """

    target: Target
    context: BuildContext
    device: MeasuringDevice | None
    times: bool = True

    def cost(self, subject: Subject, plan: Plan) -> Cost:
        """Lower the subject's model in the plan's precision, and report what it costs. The build
        has, or will want, this artifact.

        Raises ExportError, RuntimeFailure, RunnerError, DeviceError.
        """
        artifact = lower(subject, self.context.of(subject), plan).artifact
        return self.time(self.sized(unjudged(subject, artifact, plan)))

    def lowered(self, subject: Subject, plan: Plan) -> Lowered:
        """An artifact for its costs alone, without the latency. Raises ExportError,
        RuntimeFailure.
        """
        artifact = lower_for_costs(subject, self.context.of(subject), plan)
        return self.sized(unjudged(subject, artifact, plan))

    def sized(self, result: BuildResult) -> Lowered:
        """An artifact with all its costs but the latency."""
        artifact = result.artifact
        sizes = self.context.runtime.memory_sizes(artifact, self.target.architecture)
        memory = ledger(sizes) if sizes is not None else None
        shapes = self.context.runtime.operator_shapes(artifact) or ()
        return Lowered(result, Cost(None, None, memory, len(artifact.data) / 1e6, shapes))

    def time(self, lowered: Lowered) -> Cost:
        """The costs with the latency. Raises RuntimeFailure, RunnerError, DeviceError."""
        if not self.times:
            return lowered.known
        if self.device is not None:
            return self._measured(self.device, lowered.result, lowered.known)
        return self._predicted(lowered.result, lowered.known)

    def _measured(self, device: MeasuringDevice, result: BuildResult, known: Cost) -> Cost:
        artifact = result.artifact
        progress, name = self.context.progress, self.context.runtime.name
        with progress.stage(f"timing on {device.transport.name}"):
            inputs = [to_bytes(tensor) for tensor in result.example]
            latency, profiled = device.profile(Timed(artifact, inputs))
        rows, total_ms = mean_rows(profiled)
        times = None
        if rows:
            times = timed_shapes(name, artifact.program, known.shapes, rows, total_ms)
        figure = Figure(value=latency.median, source="measured", interval=latency.interval)
        return replace(known, latency=figure, times=times, source="measured")

    def _predicted(self, result: BuildResult, known: Cost) -> Cost:
        artifact, context = result.artifact, self.context
        if not context.runtime.runs_here:
            return replace(known, why_not=OTHER_RUNNER)
        files = context.runtime.device_files(self.target, context.progress)
        with (
            tempfile.TemporaryDirectory(prefix="edgekit-fit-") as folder,
            staged(artifact, context.host_files) as here,
            Serving(here) as serving,
        ):
            draft = Path(folder)
            manifest = package(
                draft, "fit", result, self.target, context.runtime, files, run_serving(serving)
            )
            inputs = golden_inputs(draft, manifest)
            found = predicted_latency(
                draft,
                manifest,
                inputs,
                lambda: known.shapes,
                self.target,
                context.progress,
            )
        if isinstance(found, str):
            return replace(known, why_not=found)
        times = found.times
        if found.rows:
            name, value = context.runtime.name, found.figure.value
            times = timed_shapes(name, artifact.program, known.shapes, found.rows, value)
        return replace(known, latency=found.figure, times=times, source=found.source)
