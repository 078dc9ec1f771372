"""From budgets to a plan: why the search starts, what it may do, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.build_options import BuildOptions
from edgekit.documents.search import SearchReport
from edgekit.documents.verdict import Relaxation, VerdictDocument
from edgekit.errors import DeviceError, RunnerError, RuntimeFailure
from edgekit.pipeline.fit.goals import goals_of, open_budgets
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.fit.rounds import Search, SearchResult
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.plans import recovery, with_recovery
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.search.constraints import Constraints

NO_LATENCY = (
    "the search needs the latency of smaller models: name a device with --device (local is this "
    "host)"
)
NO_CALIBRATION = "the search compares outputs for calibration inputs, and there are none"
STATES = "a model with state cannot be made smaller"


@dataclass(frozen=True)
class FitResult:
    """``plan``: what to build; None if nothing was found."""

    plan: Plan | None
    report: SearchReport
    relaxations: tuple[Relaxation, ...] = ()


def may_fit(options: BuildOptions) -> bool:
    """Whether a build searches where budgets are missed: not if the user set what is done."""
    return (
        options.effort != "quick"
        and options.precision == "auto"
        and options.plan is None
        and not options.removes
    )


def fit(
    subject: Subject,
    context: BuildContext,
    options: BuildOptions,
    constraints: Constraints,
    document: VerdictDocument,
    shipped: Artifact,
    meter: Meter,
) -> FitResult:
    """Search for a plan that meets the budgets which the bundle of ``document`` does not meet.

    ``constraints``: with names of the model. ``shipped``: the document's artifact.

    Raises RecipeError, ExportError.
    """
    lines = open_budgets(document)
    reason = ", ".join(f"{line.name} is {line.status}" for line in lines)
    why_not = _why_not(subject)
    if why_not is not None:
        return FitResult(None, SearchReport(reason=reason, end=why_not))
    training = recovery(subject, options, context.progress)  # a wrong one ends the build here
    try:
        result = _search(subject, context, options, constraints, document, shipped, meter)
    except (RuntimeFailure, RunnerError, DeviceError) as error:
        return FitResult(None, SearchReport(reason=reason, end=error.message))
    if isinstance(result, str):
        return FitResult(None, SearchReport(reason=reason, end=result))
    report = SearchReport(
        reason=reason, end=result.end, points=result.points, constraints=result.bound
    )
    if result.best is None:
        return FitResult(None, report, result.relaxations)
    plan = with_recovery(result.best.plan, training)
    return FitResult(plan, report)


def _search(
    subject: Subject,
    context: BuildContext,
    options: BuildOptions,
    constraints: Constraints,
    document: VerdictDocument,
    shipped: Artifact,
    meter: Meter,
) -> SearchResult | str:
    quantized = _precision_of(document.plan)
    base = meter.cost(subject, quantized)
    goals = goals_of(document, base, len(shipped.data) / 1e6)
    if goals.latency_ms is not None and base.latency is None:
        return f"{NO_LATENCY}; {base.why_not}"
    search = Search(subject, context, meter, goals, quantized, options.effort, constraints)
    return search.run({line.name: line.limit for line in document.budgets if line.limit})


def _why_not(subject: Subject) -> str | None:
    if subject.states:
        return STATES
    return NO_CALIBRATION if not subject.calibration else None


def _precision_of(plan: Plan) -> Plan:
    """The plan's precision without repairs, which cost nothing."""
    return Plan(precision=plan.precision, float_layers=plan.float_layers, seed=plan.seed)
