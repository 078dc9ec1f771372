"""The choice between finalists of a search, by a short training of each.

As in successive halving (K. Jamieson and A. Talwalkar, 2016, arXiv:1502.07943): the loss after a
share of the training predicts the loss after all of it better than the loss before. What judges is
held-out training data, or held-out calibration inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.documents.search import SearchPoint
from edgekit.errors import TrainingError
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.rounds import Proposal
from edgekit.pipeline.plans import with_recovery
from edgekit.pipeline.shrink.shrink import smaller
from edgekit.pipeline.training.recovery import recover
from edgekit.plan import Plan, Training

# Of the steps of the recovery, this share is spent on each finalist.
SHARE, LEAST_STEPS = 8, 10


@dataclass(frozen=True)
class Chosen:
    """``plan``: with the recovery. ``points``: with the losses after the short trainings.
    ``limit_s``: what is left of the limit.
    """

    plan: Plan
    points: tuple[SearchPoint, ...]
    limit_s: float | None


def choose(
    finalists: Sequence[Proposal],
    points: Sequence[SearchPoint],
    evaluator: Evaluator,
    training: Training | None,
    limit_s: float | None,
) -> Chosen:
    """The plan of the best finalist. ``finalists``: at least one, from the least loss. ``limit_s``:
    of all trainings together.

    Raises TrainingError: no finalist can be trained.
    """
    known = list(points)
    best, why = finalists[0], "the least loss within all budgets"
    if training is not None and len(finalists) > 1:
        short = training.replaced(steps=max(LEAST_STEPS, training.steps // SHARE))
        each_s = limit_s / SHARE / len(finalists) if limit_s is not None else None
        limit_s = limit_s * (1 - 1 / SHARE) if limit_s is not None else None
        losses = _losses(finalists, evaluator, short, each_s)
        for place, loss in losses.items():
            known[place] = known[place].replaced(
                recovered_loss=loss, why=f"another one loses less after {short.steps} steps"
            )
        if losses:
            best = min(finalists, key=lambda one: losses.get(one.place, math.inf))
            why = f"the least loss within all budgets after {short.steps} steps of training"
    known[best.place] = known[best.place].replaced(kept=True, why=why)
    return Chosen(with_recovery(best.plan, training), tuple(known), limit_s)


def _losses(
    finalists: Sequence[Proposal], evaluator: Evaluator, short: Training, limit_s: float | None
) -> dict[int, float]:
    """The held-out losses after a short training, by place; without those of finalists that cannot
    be trained or judged. If the user ends a training, the rest is not trained.
    """
    losses: dict[int, float] = {}
    failure: TrainingError | None = None
    for proposal in finalists:
        plan = with_recovery(proposal.plan, short)
        try:
            loss, interrupted = _trained(plan, evaluator, limit_s)
        except TrainingError as error:
            failure = error
            continue
        if loss is not None:
            losses[proposal.place] = round(loss, 6)
        if interrupted:
            break
    if failure is not None and not losses:
        raise failure
    return losses


def _trained(plan: Plan, evaluator: Evaluator, limit_s: float | None) -> tuple[float | None, bool]:
    subject, context = evaluator.subject, evaluator.meter.context
    assert plan.recover is not None
    stored = evaluator.recovered(plan) if limit_s is None else None
    if stored is not None:
        return stored, False
    small = smaller(subject, context, plan)
    found = recover(
        small.model, subject, context, plan, plan.recover, limit_s, "finalist",
        resizing=small.resizing,
    )  # fmt: skip
    if limit_s is None and not found.interrupted and found.loss is not None:
        evaluator.keep_recovered(plan, found.loss)
    return found.loss, found.interrupted
