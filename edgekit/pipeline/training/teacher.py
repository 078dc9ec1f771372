"""The teacher of a distillation, and its share of the loss."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.errors import RecipeError
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.normal_form.normalize import normal_form
from edgekit.recipe.user_code import user_code_errors

# The teacher's share of the loss beside labels (G. Hinton et al., 2015).
TEACHER_SHARE = 0.5


def teacher_of(subject: Subject) -> nn.Module:
    """The recipe's teacher(), else the recipe's own model. Raises RecipeError."""
    recipe = subject.recipe
    if not recipe.has("teacher"):
        return subject.model
    returned = recipe.call("teacher")
    if not isinstance(returned, nn.Module):
        raise RecipeError(
            f"{recipe.path}: teacher() must return a torch.nn.Module, not {type(returned).__name__}"
        )
    with user_code_errors(recipe.path, "the teacher on example_inputs()"):
        teacher = normal_form(returned.cpu().eval(), subject.arguments, subject.example).model
    shapes, expected = (
        [list(tensor.shape) for tensor in run_eager(net)(subject.example)]
        for net in (teacher, subject.model)
    )
    if shapes != expected:
        raise RecipeError(
            f"{recipe.path}: the outputs of teacher() have the shapes {shapes}, the model's "
            f"{expected}",
            "use a teacher with the same outputs as the model",
        )
    return teacher


def beside_labels(labelled: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """The loss with labels and a teacher: the weighted sum of the two."""
    return (1 - TEACHER_SHARE) * labelled + TEACHER_SHARE * taught
