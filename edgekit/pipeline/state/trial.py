"""A first trial of a model: which slots it writes, and whether its outputs are random."""

from __future__ import annotations

from collections.abc import Iterator
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

# Sources of different outputs that neither operators nor slots show.
UNSEEN = (
    "random numbers of numpy or Python, a global variable, or a function kept in the model that "
    "reads the model itself (self.act = lambda x: self.layer(x))"
)
DROPOUT = "F.dropout(x, p) is active in eval mode too: write F.dropout(x, p, self.training)"
GIVEN = "make every random number an input of the model"
STEPS = "keep what changes in a tensor: self.register_buffer('step', torch.zeros(()))"


@dataclass(frozen=True)
class Trial:
    """Two runs of one copy on the example. ``result``: of the first run. ``first``, ``second``: the
    slots that each run wrote. ``filled``: values after the first run.
    """

    result: Any
    first: frozenset[Slot]
    second: frozenset[Slot]
    filled: Values


def try_twice(path: Path, model: nn.Module, example: Inputs) -> Trial:
    """Run a copy twice; ``model`` is unchanged.

    Raises RecipeError (outputs are random), and whatever the model raises.
    """
    with random_numbers_kept():
        return _try_twice(path, model, example)


def _try_twice(path: Path, model: nn.Module, example: Inputs) -> Trial:
    copied = own_copy(model)
    one, other = Draws(copied, 1), Draws(copied, 0)
    marks = Marks.of(copied)
    with torch.no_grad(), one:
        result = copied(*own_inputs(example))
    outputs = flat_outputs(result)
    first = marks.written(copied) | _changed(copied, model)
    filled = kept(copied, first)
    marks = Marks.of(copied)
    with torch.no_grad(), other:
        again = flat_outputs(copied(*own_inputs(example)))
    second = marks.written(copied) | {s for s in first if not same(read(copied, s), filled[s])}
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
    """Slots whose content differs from ``model``."""
    original = slots_of(model)
    return {slot for slot, value in slots_of(copied).items() if not same(value, original.get(slot))}


def random_error(
    path: Path, model: nn.Module, example: Inputs, draws: Draws | None = None
) -> RecipeError:
    """The error for a model that draws random numbers. ``draws``: those of a run, if known."""
    copied = own_copy(model)
    if draws is None:
        with torch.no_grad(), Draws(copied, 1) as draws:
            copied(*own_inputs(example))
    if draws.name is not None:
        dropout = draws.name == "bernoulli"
        what = "dropout is active" if dropout else "an operator draws random numbers"
        place, hint = draws.line, f"{DROPOUT}; {GIVEN}" if dropout else GIVEN
    elif iterators := _iterators(model):
        what, place, hint = f"it advances an iterator ({', '.join(iterators)})", None, STEPS
    else:
        with torch.no_grad(), Lines() as lines:
            copied(*own_inputs(example))
        what, place, hint = UNSEEN, lines.line, f"{GIVEN}, or {STEPS}"
    at = f" at {place}" if place else ""
    return RecipeError(f"{path}: the model's outputs differ for the same input: {what}{at}", hint)


def _iterators(model: nn.Module) -> list[str]:
    """The attributes that hold iterators, such as itertools.count: their state cannot be read."""
    return [str(slot) for slot, value in slots_of(model).items() if isinstance(value, Iterator)]
