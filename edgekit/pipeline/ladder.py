"""The precision ladder: which rung is taken, judged on the artifact, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.documents import Accuracy, Parity, Rung
from edgekit.errors import ExportError, RecipeError, RuntimeFailure
from edgekit.pipeline.lowered import Lowered, Tools, lower
from edgekit.pipeline.parity import compare, drop_without_labels, require
from edgekit.pipeline.predict import Counted, run_serving
from edgekit.pipeline.stage import staged
from edgekit.pipeline.subject import Subject
from edgekit.plan import Plan, PrecisionChoice
from edgekit.runner.client import Serving
from edgekit.runtimes.base import Artifact

DEFAULT_MAX_DROP = 1.0
EVALUATE = "evaluate"


@dataclass(frozen=True)
class Candidate:
    """One rung built and judged. ``drop`` in points, by ``judged_by``; ``inferences`` is how many
    ``evaluate`` asked for.
    """

    plan: Plan
    artifact: Artifact
    parity: Parity
    accuracy: Accuracy
    drop: float | None
    judged_by: str | None
    inferences: int

    @property
    def accuracy_drop(self) -> float | None:
        """fp32 minus artifact by ``evaluate``; None without it, whatever ``auto`` went by."""
        return self.drop if self.judged_by == EVALUATE else None


def climb(
    subject: Subject, tools: Tools, choice: PrecisionChoice, max_drop: float | None
) -> tuple[Candidate, tuple[Rung, ...]]:
    """Build the precision that was asked for, or the first rung of ``auto`` that is good enough.

    Raises what building raises; under ``auto`` a failing int8 only means the next rung.
    """
    if choice == "int8":
        candidate = make_int8(subject, tools)
        return candidate, (_taken(candidate, "asked for (--precision int8)"),)
    if choice == "fp32":
        candidate = make_fp32(subject, tools)
        return candidate, (_taken(candidate, "asked for (--precision fp32)"),)
    limit = DEFAULT_MAX_DROP if max_drop is None else max_drop
    quantized, rung = _try_int8(subject, tools, limit)
    if quantized is not None:
        return quantized, (rung,)
    tools.progress.note(f"int8 is not taken: {rung.reason}")
    last = make_fp32(subject, tools)
    return last, (rung, _taken(last, "the last rung of auto: the model as it is"))


def make_int8(subject: Subject, tools: Tools) -> Candidate:
    """Raises RecipeError where there is nothing to calibrate with, RuntimeFailure, ParityError."""
    if not subject.calibration:
        raise RecipeError(
            f"{subject.recipe.path} has no calibration(), which static int8 needs",
            "give typical inputs with --calibration FILE.npz, add calibration() to the recipe "
            "(edgekit init shows one), or build with --precision fp32",
        )
    plan = Plan(precision="int8", seed=tools.seed)
    lowered = lower(subject, tools, plan)
    if lowered.artifact.program.quantized_operators == 0:
        raise RuntimeFailure(
            "no operator of this model could be quantized to int8",
            "build it with --precision fp32",
        )
    return _judge(subject, tools, plan, lowered)


def make_fp32(subject: Subject, tools: Tools) -> Candidate:
    plan = Plan(precision="fp32", seed=tools.seed)
    return _judge(subject, tools, plan, lower(subject, tools, plan))


def _judge(subject: Subject, tools: Tools, plan: Plan, lowered: Lowered) -> Candidate:
    """Run the artifact by its own runner: parity first, then the recipe's metric."""
    with staged(lowered.artifact, tools.host_files) as here, Serving(here) as serving:
        run = run_serving(serving)
        with tools.progress.stage(f"checking parity of {plan.precision}"):
            parity = require(compare(subject, lowered, run, plan.precision))
        with tools.progress.stage(f"evaluating {plan.precision} on the artifact") as stage:
            counted = Counted(run, stage)
            accuracy = Accuracy(fp32=subject.fp32_accuracy, artifact=subject.evaluate(counted))
            drop, judged_by = _drop(accuracy)
            if drop is None and plan.precision == "int8":
                drop, judged_by = drop_without_labels(subject, run, parity)
    return Candidate(plan, lowered.artifact, parity, accuracy, drop, judged_by, counted.count)


def _drop(accuracy: Accuracy) -> tuple[float | None, str | None]:
    if accuracy.fp32 is None or accuracy.artifact is None:
        return None, None
    return round(accuracy.fp32 - accuracy.artifact, 9), EVALUATE


def _try_int8(subject: Subject, tools: Tools, limit: float) -> tuple[Candidate | None, Rung]:
    if not subject.calibration:
        return None, Rung(
            precision="int8",
            taken=False,
            reason="there is no calibration data: no calibration(), no --calibration",
        )
    try:
        candidate = make_int8(subject, tools)
    except ExportError:
        raise  # the float model would fail the same way
    except RuntimeFailure as failure:
        return None, Rung(precision="int8", taken=False, reason=failure.message)
    drop = candidate.drop if candidate.drop is not None else 0.0
    said = f"it loses {drop:.2f} points by {candidate.judged_by}; allowed are {limit:g}"
    if drop <= limit:
        return candidate, _taken(candidate, said)
    return None, Rung(
        precision="int8", taken=False, reason=said, drop=drop, judged_by=candidate.judged_by
    )


def _taken(candidate: Candidate, reason: str) -> Rung:
    return Rung(
        precision=candidate.plan.precision,
        taken=True,
        reason=reason,
        drop=candidate.drop,
        judged_by=candidate.judged_by,
    )
