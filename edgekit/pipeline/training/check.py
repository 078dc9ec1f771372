"""Checks that training() and loss() fit the model, before anything long runs."""

from __future__ import annotations

import math
import time

from edgekit.compress.quantization.simulate import Outputs
from edgekit.compress.training.loop import Batch
from edgekit.errors import RecipeError
from edgekit.pipeline.model.predict import batched, run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.recipe.tensors import Inputs

# So long targets are looked at, before anything else is done.
CHECKED_S = 5.0


def check_training(subject: Subject) -> None:
    """That the recipe's training() and loss() work with its model, before anything long runs.

    Raises RecipeError.
    """
    recipe = subject.recipe
    if not recipe.has("training"):
        raise RecipeError(
            f"{recipe.path} has no training(), which training by labels needs",
            "add training() (edgekit init shows one), or train without labels, or not at all",
        )
    inputs, target = _first_batch(subject)
    flat = batched(run_eager(subject.model), subject.example, subject.structure)(inputs)
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in flat]
    loss = recipe.loss(subject.structure.rebuild(leaves), target)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RecipeError(f"{recipe.path}: the loss of the first training batch is {value}")
    if not loss.requires_grad:
        raise RecipeError(
            f"{recipe.path}: the loss does not depend on the model's outputs by a gradient",
            "compute it from them in torch, without argmax, item() or no_grad()",
        )
    _check_targets(subject, inputs, leaves)


def _check_targets(subject: Subject, first: Inputs, outputs: Outputs) -> None:
    """That the loss takes the targets to come, as far as they can be had in CHECKED_S: of outputs
    that are there already. Whether it is finite is not asked: all targets may be ignored.
    """
    recipe, shapes = subject.recipe, [tensor.shape for tensor in first]
    until = time.monotonic() + CHECKED_S
    for index, (inputs, target) in enumerate(subject.training(0)):
        if [tensor.shape for tensor in inputs] == shapes:
            try:
                recipe.loss(subject.structure.rebuild(outputs), target)
            except RecipeError as error:
                raise RecipeError(f"{error.message} (batch {index})", error.hint) from error
        if time.monotonic() > until:
            return


def _first_batch(subject: Subject) -> Batch:
    batch = next(subject.training(0), None)
    if batch is None:
        raise RecipeError(
            f"{subject.recipe.path}: training() yielded nothing",
            "yield batches of (inputs, target), inputs shaped like example_inputs()",
        )
    return batch
