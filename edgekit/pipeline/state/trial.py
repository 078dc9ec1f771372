"""A first trial of a model: what does it write when it is called, and are its outputs random?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit.errors import RecipeError
from edgekit.pipeline.normal_form.randomness import Draws, Lines, random_numbers_kept
from edgekit.pipeline.normal_form.slots import (
    Marks,
    Slot,
    Values,
    kept,
    own_copy,
    read,
    same,
    slots_of,
)
from edgekit.pipeline.state.runs import flat_outputs, near_outputs, own_inputs
from edgekit.recipe.tensors import Inputs

# What is neither an operator's random numbers nor a slot of the model's own.
UNSEEN = (
    "random numbers of numpy or Python, a global variable, or a function kept in the model that "
    "reads the model itself (self.act = lambda x: self.layer(x))"
)


@dataclass(frozen=True)
class Trial:
    """Two runs of one copy on the example. ``result`` is what the first gave; ``first`` and
    ``second`` are the slots that each wrote, ``filled`` their values after the first.
    """

    result: Any
    first: frozenset[Slot]
    second: frozenset[Slot]
    filled: Values


def try_twice(path: Path, model: nn.Module, example: Inputs) -> Trial:
    """Run a copy twice; ``model`` stays as it is.

    Raises RecipeError: outputs are random; and whatever the model raises.
    """
    with random_numbers_kept():
        return _try_twice(path, model, example)


def _try_twice(path: Path, model: nn.Module, example: Inputs) -> Trial:
    tried = own_copy(model)
    one, other = Draws(tried, 1), Draws(tried, 0)
    marks = Marks.of(tried)
    with torch.no_grad(), one:
        result = tried(*own_inputs(example))
    outputs = flat_outputs(result)
    first = marks.written(tried) | _changed(tried, model)
    filled = kept(tried, first)
    marks = Marks.of(tried)
    with torch.no_grad(), other:
        again = flat_outputs(tried(*own_inputs(example)))
    second = marks.written(tried) | {s for s in first if not same(read(tried, s), filled[s])}
    trial = Trial(result, frozenset(first), frozenset(second), filled)
    if not near_outputs(outputs, again):
        if trial.first | trial.second:
            fresh = own_copy(model)
            with torch.no_grad(), Draws(fresh, 0):
                again = flat_outputs(fresh(*own_inputs(example)))
        if not (trial.first | trial.second) or not near_outputs(outputs, again):
            raise random_error(path, model, example, one)
    return trial


def _changed(copied: nn.Module, model: nn.Module) -> set[Slot]:
    """Slots whose content is not that of ``model``."""
    before = slots_of(model)
    return {slot for slot, value in slots_of(copied).items() if not same(value, before.get(slot))}


def random_error(
    path: Path, model: nn.Module, example: Inputs, seen: Draws | None = None
) -> RecipeError:
    """The error of a model that draws random numbers; ``seen``: the draws of a run of it."""
    copied = own_copy(model)
    if seen is None:
        with torch.no_grad(), Draws(copied, 1) as seen:
            copied(*own_inputs(example))
    if seen.name is not None:
        what = (
            "an operator draws random numbers" if seen.name != "bernoulli" else "dropout is active"
        )
        place = seen.line
    else:
        with torch.no_grad(), Lines() as lines:
            copied(*own_inputs(example))
        what, place = UNSEEN, lines.line
    at = f" at {place}" if place else ""
    return RecipeError(
        f"{path}: the model gives other outputs for the same input: {what}{at}",
        "F.dropout(x, p) is active in eval mode too: write F.dropout(x, p, self.training); any "
        "other random number is an input of the model",
    )
