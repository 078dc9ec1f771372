"""What the float model reaches by the recipe's metric: in torch, or as its own fp32 artifact."""

from __future__ import annotations

from dataclasses import replace

from edgekit.compress.pruning.channel_choice import macs_of
from edgekit.errors import RuntimeFailure
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject, with_accuracy
from edgekit.pipeline.precision.candidate import make
from edgekit.plan import Plan

# From so many multiply-accumulates on, lowering the model takes less than torch takes for some
# hundred inputs. They are counted, because a choice by time could change the rung, and with it the
# bytes of the bundle.
BY_ARTIFACT_MACS = 100_000_000


def judged(subject: Subject, context: BuildContext) -> Subject:
    """The subject with its float model's accuracy; None without ``evaluate``.

    A large model is judged by its fp32 artifact, once parity with torch has passed; where it
    cannot be lowered or fails, by torch. Raises RecipeError, ExportError.
    """
    if not subject.recipe.has("evaluate") or not _is_large(subject):
        return with_accuracy(subject, context.progress)
    try:
        found = make(subject, context, Plan(precision="fp32", seed=context.seed))
    except RuntimeFailure as failure:
        context.progress.note(f"the float model is judged in torch: {failure.message}")
        return with_accuracy(subject, context.progress)
    return replace(subject, fp32_accuracy=found.accuracy.artifact, fp32_judged_by="artifact")


def _is_large(subject: Subject) -> bool:
    return not subject.states and macs_of(subject.model, subject.example) >= BY_ARTIFACT_MACS
