"""Who teaches in distillation, and how much of the loss is the teacher's."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.errors import RecipeError
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.normal_form.normalize import normal_form
from edgekit.recipe.blame import blaming

# Of the loss where there are labels too (G. Hinton et al., 2015).
TEACHER_SHARE = 0.5


def teacher_of(subject: Subject) -> nn.Module:
    """The recipe's teacher(), else the model as the recipe has it. Raises RecipeError."""
    recipe = subject.recipe
    if not recipe.has("teacher"):
        return subject.model
    found = recipe.call("teacher")
    if not isinstance(found, nn.Module):
        raise RecipeError(
            f"{recipe.path}: teacher() must return a torch.nn.Module, not {type(found).__name__}"
        )
    with blaming(recipe.path, "the teacher on example_inputs()"):
        teacher = normal_form(found.cpu().eval(), subject.arguments, subject.example).model
    told, wanted = (
        [list(tensor.shape) for tensor in run_eager(net)(subject.example)]
        for net in (teacher, subject.model)
    )
    if told != wanted:
        raise RecipeError(
            f"{recipe.path}: teacher() gives outputs of the shapes {told}, the model {wanted}",
            "a teacher and its student tell the same classes in the same form",
        )
    return teacher


def beside_labels(labelled: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    return (1 - TEACHER_SHARE) * labelled + TEACHER_SHARE * taught
