"""From budgets to a plan: why the search starts, what it may do, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.build_options import BuildOptions
from edgekit.documents.search import SearchReport
from edgekit.documents.verdict import Relaxation, VerdictDocument
from edgekit.errors import DeviceError, RuntimeFailure, StoreError, TrainingError
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.finalists import choose
from edgekit.pipeline.fit.goals import goals_of, open_budgets
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.fit.rounds import Search, SearchResult
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.plans import recovery
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.search.constraints import Constraints

NO_LATENCY = (
    "the search needs the latency of smaller models: name a device with --device (local is this "
    "host)"
)
NO_CALIBRATION = "the search compares outputs for calibration inputs, and there are none"
EMULATED = (
    "the latency of an emulated device is not evidence for the real one: name the real device, or "
    "none, which predicts its latency"
)
STATES = "a model with state cannot be made smaller"


@dataclass(frozen=True)
class FitResult:
    """``plan``: what to build; None if nothing was found. ``is_complete``: the search came to its
    end. ``limit_s``: of the plan's trainings; None: no limit.
    """

    plan: Plan | None
    report: SearchReport
    relaxations: tuple[Relaxation, ...] = ()
    is_complete: bool = True
    limit_s: float | None = None


def may_fit(options: BuildOptions) -> bool:
    """Whether a build searches where budgets are missed: not if the user set what is done."""
    return (
        options.effort != "quick"
        and options.precision == "auto"
        and options.plan is None
        and not options.removes
    )


def fit(
    evaluator: Evaluator,
    options: BuildOptions,
    constraints: Constraints,
    document: VerdictDocument,
    shipped: Artifact,
) -> FitResult:
    """Search for a plan that meets the budgets which the bundle of ``document`` does not meet.

    ``constraints``: with names of the model. ``shipped``: the document's artifact.

    Raises RecipeError, ExportError, WorkerError.
    """
    subject, progress = evaluator.subject, evaluator.meter.context.progress
    lines = open_budgets(document)
    reason = ", ".join(f"{line.name} is {line.status}" for line in lines)
    why_not = _why_not(subject, evaluator.meter)
    if why_not is not None:
        return FitResult(None, SearchReport(reason=reason, end=why_not))
    training = recovery(subject, options, progress)  # a wrong one ends the build here
    try:
        result = _search(evaluator, options, constraints, document, shipped)
    except (RuntimeFailure, StoreError, DeviceError) as error:
        report = SearchReport(reason=reason, end=error.message)
        return FitResult(None, report, is_complete=False)
    if isinstance(result, str):
        return FitResult(None, SearchReport(reason=reason, end=result))
    report = SearchReport(
        reason=reason, end=result.end, points=result.points, constraints=result.bound
    )
    if not result.finalists:
        return FitResult(None, report, result.relaxations)
    try:
        chosen = choose(result.finalists, result.points, evaluator, training, options.time_limit_s)
    except TrainingError as error:
        return FitResult(None, report.replaced(end=f"the training failed: {error.message}"))
    plan = chosen.plan.replaced(float_layers=constraints.keep_float)
    return FitResult(plan, report.replaced(points=chosen.points), limit_s=chosen.limit_s)


def _search(
    evaluator: Evaluator,
    options: BuildOptions,
    constraints: Constraints,
    document: VerdictDocument,
    shipped: Artifact,
) -> SearchResult | str:
    base = evaluator.base_cost()
    goals = goals_of(document, base, len(shipped.data) / 1e6)
    if goals.latency_ms is not None and base.latency is None:
        return f"{NO_LATENCY}; {base.why_not}"
    search = Search(evaluator, goals, options.effort, constraints)
    return search.run({line.name: line.limit for line in document.budgets if line.limit})


def _why_not(subject: Subject, meter: Meter) -> str | None:
    if subject.states:
        return STATES
    if meter.times and meter.device is not None and meter.device.is_emulated:
        return EMULATED
    return NO_CALIBRATION if not subject.calibration else None


def precision_of(plan: Plan) -> Plan:
    """The plan's precision without repairs, which cost nothing."""
    kept = ("precision", "float_layers", "float_as", "seed")
    return Plan(**{name: getattr(plan, name) for name in kept})
