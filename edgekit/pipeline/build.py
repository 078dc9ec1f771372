"""build: recipe, target and budgets in, a bundle and its verdict out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.budget import (
    BudgetLimits,
    BudgetName,
    Figure,
    Figures,
    Limits,
    merge_limits,
)
from edgekit.bundle.manifest import VERDICT, Manifest, check_name
from edgekit.bundle.verdict import Record
from edgekit.bundle.write import check_output, drafting, explaining
from edgekit.cost import memory
from edgekit.device.base import Transport
from edgekit.device.facts.probe import environment_of
from edgekit.documents import CompressionStep, VerdictDocument
from edgekit.errors import SettingError, TargetError
from edgekit.interrupt import fragile
from edgekit.pipeline.check import verdict_document
from edgekit.pipeline.deploy import reaching
from edgekit.pipeline.golden import Load, golden_inputs
from edgekit.pipeline.measured import environment_dict, measure_bundle, why_no_latency
from edgekit.pipeline.payoff import Arena
from edgekit.plan import Effort, Options, Plan, PrecisionChoice, read_plan
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Installed, Serving, measure
from edgekit.runtimes.base import RunnerFiles, Runtime
from edgekit.runtimes.executorch.wheel import host_architecture
from edgekit.runtimes.registry import choose_runtime
from edgekit.target import Target, load_target
from edgekit.waiting import wait_passively

if TYPE_CHECKING:
    import torch

    from edgekit.pipeline.built import Built
    from edgekit.plan import Training
    from edgekit.recipe import Recipe

MEMORY_ROUNDS: dict[Effort, int] = {"quick": 1, "normal": 3, "thorough": 9}
NO_DEVICE = "measured only on a device: build with --device, or edgekit bench"
# Of a program that is lowered already (pipeline/finished.py, which imports torch).
FINISHED = ".pte"


@dataclass
class Clock:
    """Seconds each part of a build took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(time.perf_counter() - start, 3)


def build(
    recipe: str | Path = "recipe.py",
    *,
    target: str | Target,
    runtime: str = "auto",
    precision: PrecisionChoice = "auto",
    latency_ms: float | None = None,
    memory_mb: float | None = None,
    size_mb: float | None = None,
    max_drop: float | None = None,
    effort: Effort = "normal",
    qat: bool = False,
    prune: float | None = None,
    sparsity: float | None = None,
    distill: bool = False,
    time_limit_s: float | None = None,
    plan: str | Path | Plan | None = None,
    calibration: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    name: str | None = None,
    output: str | Path | None = None,
    limits: Limits | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> VerdictDocument:
    """Build a bundle of the recipe's model for ``target`` and give its verdict.

    ``recipe`` may be a program that torch.export.save wrote (.pt2), or a finished .pte, which is
    packaged as it is. ``plan`` (a file, or what read_plan gave) is done as it stands, in the place
    of ``precision``. ``prune`` removes channels, this share of the multiply-accumulates;
    ``sparsity`` sets this share of the weights to zero; the model is trained after that.
    ``distill``: towards the outputs of the recipe's teacher(), or of its own model before, too.
    ``qat`` trains int8 by the recipe's training() and takes it where its artifact is better. All
    trainings together have ``time_limit_s``. ``calibration`` is a .npz file that stands in for the
    recipe's calibration(). ``limits`` are budgets with who asked for each; the four budget
    arguments are put before them, the target's own after. A missed budget is no error: the bundle
    is there, and the document says ``missed``. ``output`` defaults to ./build/NAME-TARGET.

    Raises RecipeError, ExportError, TrainingError, TargetError, RuntimeFailure, ParityError,
    OutputError, UsageError, MissingExtraError, and with ``device`` what bench raises; nothing is
    left half-written.
    """
    wait_passively()
    progress = progress or Silent()
    board = target if isinstance(target, Target) else load_target(target)
    flags = BudgetLimits(
        latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, max_drop=max_drop
    )
    asked = merge_limits([("target", board.budgets)])
    asked = asked | (limits or {}) | merge_limits([("flag", flags)])
    path = Path(recipe)
    finished = path.suffix == FINISHED
    options = Options(seed, effort, qat, prune, sparsity, distill, time_limit_s)
    _check(options, precision, plan is not None)
    changing = qat or options.changes_the_model
    if finished and (precision != "auto" or calibration or plan is not None or changing):
        raise SettingError(
            f"{path} is finished and is packaged as it is: --precision, --plan, --prune, "
            "--sparsity, --distill, --qat and --calibration are for a recipe or an exported "
            "program (.pt2)"
        )
    wanted = plan if isinstance(plan, Plan) or plan is None else read_plan(Path(plan))
    engine = choose_runtime(runtime, board)
    bundle_name = check_name(name or default_name(path))
    folder = Path(output or Path("build") / f"{bundle_name}-{board.name}").absolute()
    check_output(folder)
    with _device(device, board, accept_new_host_key, progress) as transport:
        with progress.stage("starting PyTorch"), fragile():
            from edgekit.pipeline.source import open_source  # imports torch

        clock = Clock()
        if wanted is not None:
            options = replace(options, seed=wanted.seed)
        job = _Job(engine, board, asked, transport, progress, clock, options)
        with explaining(folder), clock.timed("total"):
            if finished:
                return job.package_finished(path, bundle_name, folder)
            data = Path(calibration) if calibration is not None else None
            with open_source(path, options.seed) as opened:
                return job.run(opened, data, wanted or precision, bundle_name, folder)


def _check(options: Options, precision: PrecisionChoice, by_plan: bool) -> None:
    if by_plan and (options.qat or options.changes_the_model):
        raise SettingError(
            "--plan says by itself what is pruned and trained: leave --prune, --sparsity, "
            "--distill and --qat out"
        )
    if options.qat and precision == "fp32":
        raise SettingError("--qat trains int8, of which there is none with --precision fp32")
    shares = {"--prune": options.prune, "--sparsity": options.sparsity}
    whole = {"--prune": "multiply-accumulates", "--sparsity": "weights"}
    for flag, value in shares.items():
        if value is not None and not 0 < value < 1:
            raise SettingError(
                f"{flag} {value:g}: the share of the {whole[flag]} that goes is between 0 and 1"
            )


@dataclass(frozen=True)
class _Job:
    """One build's fixed surroundings, so that its steps need not hand them on."""

    engine: Runtime
    target: Target
    limits: Limits
    transport: Transport | None
    progress: Progress
    clock: Clock
    options: Options

    def run(
        self,
        recipe: Recipe,
        calibration: Path | None,
        wanted: Plan | PrecisionChoice,
        name: str,
        folder: Path,
    ) -> VerdictDocument:
        """Recipe, ladder (or a plan as it stands), bundle."""
        from edgekit.pipeline.built import built
        from edgekit.pipeline.fingerprint import Fingerprint
        from edgekit.pipeline.float_accuracy import judged
        from edgekit.pipeline.kept import Tools
        from edgekit.pipeline.ladder import Request, climb, replay
        from edgekit.pipeline.planned import base_plan, for_subject, int8_training
        from edgekit.pipeline.smaller import points_lost, smaller
        from edgekit.pipeline.subject import read_subject

        options, host = self.options, self.engine.runner_files(host_architecture(), self.progress)
        with self.clock.timed("recipe"):
            subject = read_subject(recipe, self._wants_data(wanted), self.progress, calibration)
            if isinstance(wanted, Plan):
                base = for_subject(wanted, subject)
            else:
                base = base_plan(subject, options, wanted, self.progress)
            training = int8_training(subject, options)
            limit_s = _each(options, base, training)
            fingerprint, arena = Fingerprint(subject), self._arena()
            tools = Tools(self.engine, host, options.seed, self.progress, fingerprint, arena)
            subject = judged(subject, tools)
        with self.clock.timed("artifact"):
            steps: tuple[CompressionStep, ...] = ()
            lost = 0.0
            if base.changes_the_model:
                as_it_stands = wanted != "auto"
                small = smaller(subject, tools, base, limit_s, as_it_stands)
                lost = points_lost(subject, small.steps)
                subject, tools, base, steps = small.subject, small.tools, small.plan, small.steps
            if isinstance(wanted, Plan):
                climbed = replay(subject, tools, base, "as the plan says (--plan)")
            else:
                drop = self.limits.get("accuracy_drop")
                most = drop.value if drop else None
                asked = Request(wanted, most, options.effort, training, limit_s, base, lost)
                climbed = climb(subject, tools, asked)
        document = self._bundle(built(subject, climbed, steps), host, name, folder)
        document = document.model_copy(update={"notes": subject.notes})
        return self._advised(document, subject.model)

    def _wants_data(self, wanted: Plan | PrecisionChoice) -> bool:
        """Calibration data: for int8, and for what is done to the model before."""
        if isinstance(wanted, Plan):
            return wanted.is_quantized or wanted.changes_the_model
        return wanted != "fp32" or self.options.changes_the_model

    def _arena(self) -> Arena | None:
        if self.transport is None:
            return None
        files = self.engine.runner_files(self.target.architecture, self.progress)
        return Arena(self.transport, files, self.target.threads)

    def _advised(self, document: VerdictDocument, model: torch.nn.Module) -> VerdictDocument:
        """With what could be written better in the model, where operators are left outside."""
        classes = {layer: type(module).__name__ for layer, module in model.named_modules()}
        advice = self.engine.advise(document.program["outside"], classes)
        return document.model_copy(update={"advice": advice})

    def package_finished(self, path: Path, name: str, folder: Path) -> VerdictDocument:
        """A file that was lowered elsewhere: no recipe, no ladder."""
        from edgekit.pipeline.finished import read_finished

        host = self.engine.runner_files(host_architecture(), self.progress)
        with self.clock.timed("artifact"), self.progress.stage("reading the program"):
            finished = read_finished(path, self.engine, host, self.options.seed)
        return self._bundle(finished, host, name, folder)

    def _bundle(self, built: Built, host: RunnerFiles, name: str, folder: Path) -> VerdictDocument:
        from edgekit.pipeline.stage import staged

        files = self.engine.runner_files(self.target.architecture, self.progress)
        with drafting(folder) as draft, staged(built.artifact, host) as here:
            with self.clock.timed("package"), self.progress.stage("packaging"):
                manifest = self._package(draft, name, built, files, here)
            with self.clock.timed("measure"):
                measured = self._measure(draft, manifest, here)
            record = self._record(manifest, built, measured)
            (draft / VERDICT).write_bytes(record.to_bytes())
        return verdict_document("edgekit.build/1", folder, manifest, record, self.limits)

    def _package(
        self, draft: Path, name: str, built: Built, files: RunnerFiles, here: Installed
    ) -> Manifest:
        from edgekit.pipeline.package import package
        from edgekit.pipeline.predict import run_serving

        with Serving(here) as serving:
            run = run_serving(serving)
            return package(draft, name, built, self.target, self.engine, files, run)

    def _measure(self, draft: Path, manifest: Manifest, here: Installed) -> _Measured:
        """On the device where one is named; else the peak memory of the runner on this host."""
        if self.transport is not None:
            load = Load(self.target.threads)
            found = measure_bundle(draft, manifest, None, self.transport, load, self.progress)
            return _Measured(found.figures(), environment_dict(found))
        with self.progress.stage("measuring peak memory"):
            inputs = golden_inputs(draft, manifest)
            peaks = [
                measure(here, inputs, runs=2, warmup=1, threads=self.target.threads).peak_memory_mb
                for _ in range(MEMORY_ROUNDS[self.options.effort])
            ]
        own = self.target.architecture == host_architecture()
        figure = memory.measured(peaks) if own else memory.predicted(peaks)
        return _Measured({"peak_memory_mb": figure}, {})

    def _record(self, manifest: Manifest, built: Built, measured: _Measured) -> Record:
        figures: Figures = dict(measured.figures)
        missing: dict[BudgetName, str] = {}
        if built.accuracy_drop is not None:
            figures["accuracy_drop"] = Figure(value=built.accuracy_drop, source="measured")
        else:
            missing["accuracy_drop"] = built.why_no_drop
        if "latency_ms" not in figures:
            emulated = measured.environment.get("emulated")
            missing["latency_ms"] = why_no_latency(emulated) if self.transport else NO_DEVICE
        return Record(
            manifest=manifest.digest,
            recipe=str(built.source),
            recipe_sha256=built.source_sha256,
            device=self.transport.name if self.transport else None,
            limits=self.limits,
            figures=figures,
            missing=missing,
            accuracy=built.accuracy,
            fp32_judged_by=built.fp32_judged_by,
            parity=built.parity,
            inferences=built.inferences,
            ladder=built.ladder,
            blame=built.blame,
            compression=built.compression,
            environment=measured.environment,
            seconds=self.clock.seconds,
        )


def _each(options: Options, base: Plan, training: Training | None) -> float | None:
    """What each training may take of what they may take together."""
    in_int8 = training is not None or options.effort == "thorough"  # which may distil (ladder.py)
    count, limit_s = len(base.trainings) + in_int8, options.time_limit_s
    return limit_s / count if limit_s is not None and count else limit_s


@dataclass(frozen=True)
class _Measured:
    figures: Figures
    environment: dict[str, Any]


def default_name(recipe: Path) -> str:
    """The recipe's folder where the file is recipe.py, else the file's stem."""
    whole = recipe.resolve()
    return whole.parent.name or "model" if whole.name == "recipe.py" else whole.stem


@contextmanager
def _device(
    device: str | None, target: Target, accept_new_host_key: bool, progress: Progress
) -> Iterator[Transport | None]:
    """Connected before anything long runs; a device of another architecture is refused here."""
    if device is None:
        yield None
        return
    with reaching(device, accept_new_host_key, progress) as transport:
        found = environment_of(transport).architecture
        if found is not None and found != target.architecture:
            raise TargetError(
                f"the target '{target.name}' is {target.architecture}, but the device '{device}' "
                f"is {found}",
                "leave --device out, or build for the device's own target",
            )
        yield transport
