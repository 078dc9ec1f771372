"""Checks that training() and loss() fit the model, before anything slow runs."""

from __future__ import annotations

import math
import time

from edgekit.compress.quantization.simulate import Outputs
from edgekit.compress.training.loop import Batch
from edgekit.errors import RecipeError
from edgekit.pipeline.model.predict import batched, run_eager
from edgekit.pipeline.model.subject import Subject
from edgekit.recipe.tensors import Inputs

# Targets are checked for this long.
CHECKED_S = 5.0


def check_training(subject: Subject) -> None:
    """Raise RecipeError if the recipe's training() and loss() do not work with its model."""
    recipe = subject.recipe
    if not recipe.has("training"):
        raise RecipeError(
            f"{recipe.path} has no training(), which training with labels needs",
            "add training() (edgekit init shows one), or train without labels (--distill)",
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
            f"{recipe.path}: the loss has no gradient with respect to the model's outputs",
            "compute it from the outputs in torch, without argmax, item() or no_grad()",
        )
    _check_targets(subject, inputs, leaves)


def _check_targets(subject: Subject, first: Inputs, outputs: Outputs) -> None:
    """Raise RecipeError if the loss rejects later targets, as many as CHECKED_S allows.

    The outputs of the first batch are used for all. The loss need not be finite, because all
    targets of a batch may be ignored.
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
