"""A candidate: the artifact of one plan, judged by running it with its own runner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from edgekit.documents.measure import OutputFidelity, Parity
from edgekit.documents.verdict import Accuracy
from edgekit.errors import RunnerError, RuntimeFailure
from edgekit.fidelity.agreement import DEVICE_STEPS
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import CountedRun, run_serving
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.cross_check import cross_checked
from edgekit.pipeline.precision.lower import LoweredModel, lower
from edgekit.pipeline.precision.parity import compare, in_sequence, judge_without_labels, require
from edgekit.plan import Plan
from edgekit.program import Artifact, MovedBySteps
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged

EVALUATE = "evaluate"
MOST_STEPS = 16


@dataclass(frozen=True)
class Candidate:
    """A built and judged plan.

    ``drop``: the points lost, measured by ``judged_by``. ``inferences``: the number that
    ``evaluate`` ran. Without ``evaluate``, ``fidelity`` and ``divergence`` compare the outputs with
    the float model's.
    """

    plan: Plan
    artifact: Artifact
    parity: Parity
    accuracy: Accuracy
    drop: float | None
    judged_by: str | None
    inferences: int
    fidelity: tuple[OutputFidelity, ...] = ()
    divergence: float = 0.0

    @property
    def accuracy_drop(self) -> float | None:
        """The accuracy of fp32 minus the artifact's, by ``evaluate``; None without it."""
        return self.drop if self.judged_by == EVALUATE else None

    @property
    def loss(self) -> float:
        """The points lost, for the ladder; 0 if nothing can judge the model."""
        return self.drop if self.drop is not None else 0.0

    @property
    def text(self) -> str:
        if self.drop is None:
            return "its loss is not known: neither evaluate() nor calibration data"
        lost = f"{self.loss:.2f} points lost"
        if self.judged_by == EVALUATE:
            return f"{lost} on evaluate()"
        return f"{self.judged_by}: {lost}" if self.judged_by else lost


def make(subject: Subject, context: BuildContext, plan: Plan) -> Candidate:
    """Lower a plan and judge the artifact. Raises RuntimeFailure, ParityError."""
    lowered = lower(subject, context, plan)
    if plan.is_quantized and lowered.artifact.program.quantized_operators == 0:
        raise RuntimeFailure(
            "no operator of this model could be quantized to int8",
            "build it with --precision fp32",
        )
    return _judge(subject, context, plan, lowered)


def _judge(subject: Subject, context: BuildContext, plan: Plan, lowered: LoweredModel) -> Candidate:
    """Check parity, then evaluate the recipe's metric, or the fidelity without one."""
    with (
        _explained_errors(context, lowered.artifact),
        staged(lowered.artifact, context.host_files) as here,
        Serving(here) as serving,
    ):
        run = run_serving(serving)
        with context.progress.stage(f"checking parity of {plan.precision}"):
            found_parity, differences = compare(subject, lowered, run, plan.precision)
            parity = require(found_parity, subject, plan.precision)
            artifact = _with_tolerance(lowered, differences)
            parity = parity.replaced(sequence=in_sequence(subject, run))
        with context.progress.stage(f"evaluating {plan.precision} on the artifact") as stage:
            counted = CountedRun(run, stage)
            accuracy = Accuracy(fp32=subject.fp32_accuracy, artifact=subject.evaluate(counted))
            drop, judged_by = _drop(accuracy)
            found = Candidate(plan, artifact, parity, accuracy, drop, judged_by, counted.count)
            if drop is not None or plan.precision == "fp32" or not subject.calibration:
                return found
            judged = judge_without_labels(subject, run, plan)
    if judged.loss == 0 and plan.is_quantized:
        judged = cross_checked(subject, context, plan, judged)
    return replace(
        found,
        drop=judged.loss,
        judged_by=judged.judged_by,
        fidelity=judged.outputs,
        divergence=judged.divergence,
    )


def _with_tolerance(lowered: LoweredModel, differences: Sequence[float]) -> Artifact:
    """The artifact with how far two correct devices may differ in outputs that are stored as steps,
    where float operators lie between int8 ones (compress/last_steps.py) and nothing in torch can
    tell.

    The delegate and the runtime's own kernels are two correct implementations: devices may differ
    as much as these do, but by at most MOST_STEPS. Rounded up to a power of two of steps, so that
    the bundles of different hosts seldom differ.
    """
    artifact, program = lowered.artifact, lowered.artifact.program
    mixes = program.float_operators + program.outside_operators > 0
    if not (lowered.by_own_kernels and mixes):
        return artifact
    outputs = []
    for spec, difference in zip(program.outputs, differences, strict=True):
        steps = spec.quantization
        if steps is not None and spec.dtype != steps.dtype and difference > steps.scale:
            count = min(MOST_STEPS, 2 ** math.ceil(math.log2(difference / steps.scale)))
            whole = steps.scale * count / DEVICE_STEPS  # of which a device may differ by two
            spec = spec.replaced(moved=MovedBySteps(whole=whole))
        outputs.append(spec)
    return replace(artifact, program=program.replaced(outputs=tuple(outputs)))


@contextmanager
def _explained_errors(context: BuildContext, artifact: Artifact) -> Iterator[None]:
    try:
        yield
    except RunnerError as error:
        raise context.runtime.explain(error, artifact.program) from error


def _drop(accuracy: Accuracy) -> tuple[float | None, str | None]:
    if accuracy.fp32 is None or accuracy.artifact is None:
        return None, None
    return round(accuracy.fp32 - accuracy.artifact, 9), EVALUATE
