"""A build: recipe, compression, precision, package, measurement, verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.budget import BudgetName, Figure, Figures, Limits
from edgekit.build_options import BuildOptions
from edgekit.bundle.manifest import VERDICT, Manifest
from edgekit.bundle.verdict import Record, verdict_document
from edgekit.bundle.write import atomic_folder
from edgekit.cost import memory
from edgekit.cost.ledger import ledger
from edgekit.cost.prediction import Prediction, predicted_latency
from edgekit.device.base import Transport
from edgekit.documents.environment import MeasuredEnvironment
from edgekit.documents.latency import LatencyParts
from edgekit.documents.memory import MemoryLedger
from edgekit.documents.verdict import CompressionStep, VerdictDocument
from edgekit.fleet.workers import Workers
from edgekit.measure.golden import Load, golden_inputs
from edgekit.measure.operators import calibrated_rows, latency_parts, profiled_rows
from edgekit.measure.paired_latency import MeasuringDevice
from edgekit.measure.session import latency_unknown_reason, measure_bundle
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Progress
from edgekit.runner.client import Installed, Serving, measure
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import OTHER_RUNNER, Runtime
from edgekit.search.constraints import NO_CONSTRAINTS, Constraints
from edgekit.store.store import release_id
from edgekit.target import HALF_PRECISION, Architecture, Target, host_architecture
from edgekit.values import Effort, PrecisionChoice

if TYPE_CHECKING:
    from edgekit.pipeline.model.cache_key import Fingerprint
    from edgekit.pipeline.model.context import BuildContext
    from edgekit.pipeline.model.subject import Subject
    from edgekit.pipeline.result import BuildResult
    from edgekit.pipeline.shrink.low_rank import Times
    from edgekit.plan import Training
    from edgekit.recipe.recipe import Recipe

MEMORY_ROUNDS: dict[Effort, int] = {"quick": 1, "normal": 3, "thorough": 9}

NO_DEVICE = "measured only on a device: build with --device, or edgekit bench"


@dataclass
class Clock:
    """Measures the seconds of each part of a build."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            took = self.seconds.get(part, 0.0) + time.perf_counter() - start
            self.seconds[part] = round(took, 3)

    def copy(self) -> Clock:
        return Clock(dict(self.seconds))


@dataclass(frozen=True)
class BundleBuild:
    """One build: the values that all its steps share, and the steps.

    ``installed``: name and id of each release that was sent to the device to measure it.
    """

    engine: Runtime
    target: Target
    limits: Limits
    transport: Transport | None
    progress: Progress
    clock: Clock
    options: BuildOptions
    workers: Workers
    installed: set[tuple[str, str]] = field(default_factory=set)

    def read(
        self, recipe: Recipe, calibration: Path | None, wanted: Plan | PrecisionChoice
    ) -> Subject:
        """The recipe's model and data. They are read once: a recipe may draw random numbers."""
        from edgekit.pipeline.model.subject import read_subject

        with self.clock.timed("recipe"):
            return read_subject(recipe, self._wants_data(wanted), self.progress, calibration)

    def run(
        self, subject: Subject, wanted: Plan | PrecisionChoice, name: str, folder: Path
    ) -> Built:
        """Build a bundle of the subject, by the ladder or by a given plan."""
        from edgekit.pipeline.constraints import check_constraints
        from edgekit.pipeline.model.cache_key import Fingerprint
        from edgekit.pipeline.plans import base_plan, check_plan, check_runtime, int8_training
        from edgekit.pipeline.precision.float_accuracy import judged

        options, host = self.options, self.engine.runner_files(host_architecture(), self.progress)
        with self.clock.timed("recipe"):
            constraints = NO_CONSTRAINTS
            if isinstance(wanted, Plan):
                if options.constraints is not None:
                    self.progress.note("the plan is followed as it is, without the constraints")
                base = check_plan(wanted, subject)
            else:
                constraints = check_constraints(options, subject)
                base = base_plan(subject, options, wanted, self.progress, constraints)
            training = int8_training(subject, options)
            check_runtime(self.engine, base, training)
            self._note_slow_half(wanted)
            context = self._context(host, Fingerprint(subject))
            subject = judged(subject, context)
        with self.clock.timed("artifact"):
            result = self.build_model(subject, context, base, wanted, training)
        settled = self._with_threads(result, context)
        context = context.with_threads(settled.target.threads)
        document = settled.write_bundle(result, host, name, folder)
        return Built(settled, subject, context, result, training, constraints, document)

    def _with_threads(self, result: BuildResult, context: BuildContext) -> BundleBuild:
        """With --threads auto: this build for the number of threads that is fastest."""
        from edgekit.pipeline.fit.threads import fastest

        if self.options.threads != "auto":
            return self
        with self.clock.timed("threads"):
            return replace(self, target=fastest(self.target, result, context))

    def build_model(
        self,
        subject: Subject,
        context: BuildContext,
        base: Plan,
        wanted: Plan | PrecisionChoice,
        training: Training | None,
    ) -> BuildResult:
        """The smaller model of a plan, if it changes the model, in the precision of the ladder."""
        from edgekit.pipeline.precision.actions import BuildActions
        from edgekit.pipeline.precision.ladder import Request, build_planned, run_ladder
        from edgekit.pipeline.result import build_result
        from edgekit.pipeline.shrink.shrink import compress, points_lost

        limit_s = _limit_of_each(self.options, base, training)
        steps: tuple[CompressionStep, ...] = ()
        lost = 0.0
        if base.changes_the_model:
            times = self._times(context) if base.low_rank is not None else None
            compressed = compress(subject, context, base, limit_s, wanted != "auto", times)
            lost = points_lost(subject, compressed.steps)
            subject, context = compressed.subject, compressed.context
            base, steps = compressed.plan, compressed.steps
        actions = BuildActions(subject, context, base, self.options.effort)
        if isinstance(wanted, Plan):
            ladder = build_planned(actions, base, "requested (--plan)")
        else:
            drop = self.limits.get("accuracy_drop")
            max_drop = drop.value if drop else None
            half = self.target.computes_half and self.engine.half is not None
            request = Request(wanted, max_drop, self.options.effort, training, limit_s, lost, half)
            ladder = run_ladder(actions, request)
        return build_result(subject, ladder, steps)

    def _times(self, context: BuildContext) -> Times:
        """The times of a model's operators on the target: measured, else predicted."""
        from edgekit.pipeline.fit.meter import Meter

        meter = Meter(self.target, context, context.device)
        return lambda subject, plan: meter.cost(subject, plan).times

    def _wants_data(self, wanted: Plan | PrecisionChoice) -> bool:
        """Whether calibration data is needed: for int8, to judge fp16, or for changes to the model
        before.
        """
        if isinstance(wanted, Plan):
            return wanted.precision != "fp32" or wanted.changes_the_model
        return wanted != "fp32" or self.options.changes_the_model

    def _note_slow_half(self, wanted: Plan | PrecisionChoice) -> None:
        precision = wanted.precision if isinstance(wanted, Plan) else wanted
        if precision == "fp16" and not self.target.computes_half:
            self.progress.note(
                f"the target {self.target.name} names no feature for half precision "
                f"({' or '.join(HALF_PRECISION)}): fp16 halves the file, but may be slower than "
                "fp32 there"
            )

    def _context(self, host: RunnerFiles, fingerprint: Fingerprint) -> BuildContext:
        from edgekit.pipeline.model.context import BuildContext

        device, seed = self._measuring_device(), self.options.seed
        return BuildContext(self.engine, host, seed, self.progress, fingerprint, device)

    def _measuring_device(self) -> MeasuringDevice | None:
        if self.transport is None:
            return None
        files = self.engine.device_files(self.target, self.progress)
        return MeasuringDevice(self.engine.name, self.transport, files, self.target.threads)

    def package_finished(self, path: Path, name: str, folder: Path) -> VerdictDocument:
        """Package a file that was lowered elsewhere, without recipe and ladder."""
        from edgekit.pipeline.finished_file import read_finished
        from edgekit.pipeline.model.cache_key import NoFingerprint

        host = self.engine.runner_files(host_architecture(), self.progress)
        with self.clock.timed("artifact"), self.progress.stage("reading the program"):
            finished = read_finished(path, self.engine, host, self.options, self.progress)
        context = self._context(host, NoFingerprint())
        return self._with_threads(finished, context).write_bundle(finished, host, name, folder)

    def write_bundle(
        self, result: BuildResult, host: RunnerFiles, name: str, folder: Path
    ) -> VerdictDocument:
        from edgekit.runner.staging import staged

        files = self.engine.device_files(self.target, self.progress)
        with atomic_folder(folder) as draft, staged(result.artifact, host) as here:
            with self.clock.timed("package"), self.progress.stage("packaging"):
                manifest = self._package(draft, name, result, files, here)
            with self.clock.timed("measure"):
                measured = self._measure(draft, manifest, here, result)
            record = self._record(manifest, result, measured)
            (draft / VERDICT).write_bytes(record.to_bytes())
        return verdict_document("edgekit.build/1", folder, manifest, record, self.limits)

    def _package(
        self, draft: Path, name: str, result: BuildResult, files: RunnerFiles, here: Installed
    ) -> Manifest:
        from edgekit.pipeline.model.predict import run_serving
        from edgekit.pipeline.package import package

        with Serving(here) as serving:
            run = run_serving(serving)
            return package(draft, name, result, self.target, self.engine, files, run)

    def _measure(
        self, draft: Path, manifest: Manifest, here: Installed, result: BuildResult
    ) -> _Measured:
        """Measure on the device if one is named; else peak memory here, and predict latency."""
        target = self._ledger(result.artifact, self.target.architecture)
        if self.transport is not None:
            load = Load(self.target.threads)
            self.installed.add((manifest.name, release_id(manifest)))
            found = measure_bundle(draft, manifest, None, self.transport, load, self.progress)
            return _Measured(found.figures(), found.environment, target)
        if not self.engine.runs_here:
            return _Measured({}, None, None, f"{NO_DEVICE}; {OTHER_RUNNER}")
        inputs = golden_inputs(draft, manifest)
        peaks = self._peaks_here(here, inputs)
        figures: Figures = {"peak_memory_mb": self._peak_memory(peaks, target)}
        known = target and target.replaced(measured_here_mb=max(peaks))
        if self._is_latency_unwanted:
            return _Measured(figures, None, known)
        latency = predicted_latency(
            draft,
            manifest,
            inputs,
            lambda: self.engine.operator_shapes(result.artifact),
            self.target,
            self.progress,
        )
        if isinstance(latency, str):
            return _Measured(figures, None, known, f"{NO_DEVICE}; {latency}")
        parts = self._parts(latency, result.artifact)
        return _Measured({**figures, "latency_ms": latency.figure}, None, known, latency=parts)

    def _parts(self, latency: Prediction, artifact: Artifact) -> LatencyParts | None:
        """The operators' parts of a predicted latency. An estimate has none."""
        if latency.times is not None:
            rows = calibrated_rows(latency.times)
        elif latency.rows:
            shapes = self.engine.operator_shapes(artifact)
            rows = profiled_rows(self.engine.name, artifact.program, shapes, latency.rows)
        else:
            return None
        return latency_parts(rows, latency.figure, latency.source)

    @property
    def _is_latency_unwanted(self) -> bool:
        """A quick build predicts, which takes seconds, only for a budget or a comparison."""
        is_for_nothing = "latency_ms" not in self.limits and self.options.runtime != "auto"
        return self.options.effort == "quick" and is_for_nothing

    def _peaks_here(self, here: Installed, inputs: list[bytes]) -> list[float]:
        with self.progress.stage("measuring peak memory"):
            return [
                measure(here, inputs, runs=2, warmup=1, threads=self.target.threads).peak_memory_mb
                for _ in range(MEMORY_ROUNDS[self.options.effort])
            ]

    def _peak_memory(self, peaks_mb: list[float], target: MemoryLedger | None) -> Figure:
        if self.target.architecture == host_architecture():
            return memory.measured(peaks_mb)
        return memory.predicted(peaks_mb, target)

    def _ledger(self, artifact: Artifact, architecture: Architecture) -> MemoryLedger | None:
        sizes = self.engine.memory_sizes(artifact, architecture)
        return ledger(sizes) if sizes is not None else None

    def _record(self, manifest: Manifest, result: BuildResult, measured: _Measured) -> Record:
        figures: Figures = dict(measured.figures)
        missing: dict[BudgetName, str] = {}
        if result.accuracy_drop is not None:
            figures["accuracy_drop"] = Figure(value=result.accuracy_drop, source="measured")
        else:
            missing["accuracy_drop"] = result.why_no_drop
        if "latency_ms" not in figures:
            environment = measured.environment
            missing["latency_ms"] = (
                measured.why_no_latency
                if environment is None
                else latency_unknown_reason(environment.emulated)
            )
        if "peak_memory_mb" not in figures:
            missing["peak_memory_mb"] = f"{NO_DEVICE}; {OTHER_RUNNER}"
        return Record(
            manifest=manifest.digest,
            recipe=str(result.source),
            recipe_sha256=result.source_sha256,
            device=self.transport.name if self.transport else None,
            limits=self.limits,
            figures=figures,
            missing=missing,
            accuracy=result.accuracy,
            fp32_judged_by=result.fp32_judged_by,
            parity=result.parity,
            inferences=result.inferences,
            ladder=result.ladder,
            blame=result.blame,
            compression=result.compression,
            environment=measured.environment,
            memory=measured.memory,
            latency=measured.latency,
            seconds=self.clock.seconds,
        )


def _limit_of_each(options: BuildOptions, base: Plan, training: Training | None) -> float | None:
    """The time limit of each training, in seconds: equal shares of the limit of all."""
    in_int8 = training is not None or options.effort == "thorough"  # which may distil (ladder.py)
    count, limit_s = len(base.trainings) + in_int8, options.time_limit_s
    return limit_s / count if limit_s is not None and count else limit_s


@dataclass(frozen=True)
class Built:
    """A bundle that was written, and what a search for a smaller model continues from.

    ``job``: with the number of threads that was chosen.
    """

    job: BundleBuild
    subject: Subject
    context: BuildContext
    result: BuildResult
    training: Training | None
    constraints: Constraints
    document: VerdictDocument

    def within(self, limit_s: float | None) -> Built:
        """With another time limit for further trainings, in seconds."""
        options = replace(self.job.options, time_limit_s=limit_s)
        return replace(self, job=replace(self.job, options=options))

    def advised(self, document: VerdictDocument) -> VerdictDocument:
        """The document with notes on the recipe's model, and advice on the operators that no
        delegate runs.
        """
        modules = self.subject.model.named_modules()
        classes = {layer: type(module).__name__ for layer, module in modules}
        advice = self.job.engine.advise(document.program.outside, classes)
        return document.replaced(notes=self.subject.notes, advice=advice)


@dataclass(frozen=True)
class _Measured:
    figures: Figures
    environment: MeasuredEnvironment | None
    memory: MemoryLedger | None
    why_no_latency: str = NO_DEVICE
    latency: LatencyParts | None = None
