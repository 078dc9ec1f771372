"""The float model's accuracy by the recipe's metric: in torch, or as its fp32 artifact."""

from __future__ import annotations

from dataclasses import replace

from edgekit.compress.pruning.channel_choice import macs_of
from edgekit.errors import RuntimeFailure
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject, with_accuracy
from edgekit.pipeline.precision.candidate import make
from edgekit.plan import Plan

# From this number of multiply-accumulates on, lowering takes less time than some hundred inferences
# in torch. The choice is by count: a choice by measured time could change the chosen precision, and
# with it the bytes of the bundle.
BY_ARTIFACT_MACS = 100_000_000


def judged(subject: Subject, context: BuildContext) -> Subject:
    """The subject with its float model's accuracy; None without ``evaluate``.

    A large model is evaluated as its fp32 artifact, after parity with torch passed. If lowering or
    parity fails, it is evaluated in torch. Raises RecipeError, ExportError.
    """
    if not subject.recipe.has("evaluate") or not _is_large(subject):
        return with_accuracy(subject, context.progress)
    try:
        found = make(subject, context, Plan(precision="fp32", seed=context.seed))
    except RuntimeFailure as failure:
        context.progress.note(f"the float model is evaluated in torch: {failure.message}")
        return with_accuracy(subject, context.progress)
    return replace(subject, fp32_accuracy=found.accuracy.artifact, fp32_judged_by="artifact")


def _is_large(subject: Subject) -> bool:
    return not subject.states and macs_of(subject.model, subject.example) >= BY_ARTIFACT_MACS
