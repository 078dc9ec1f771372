"""The normal form of a model, which all later steps use.

Its forward takes the flat tensors of Arguments and does not change them. Its weights are plain,
initialised parameters. Nothing in it is bfloat16 or float64. Layers and weights keep their names.
The recipe's own model is unchanged, except that lazy modules are initialised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from edgekit.errors import RecipeError
from edgekit.fidelity.groups import difference, energy
from edgekit.pipeline.normal_form.computed_weights import computes_weights, fold_weights
from edgekit.pipeline.normal_form.flat_call import flat_model, with_forward
from edgekit.pipeline.normal_form.float32 import Float32Forward, other_types, to_float32
from edgekit.pipeline.normal_form.slots import Marks, duplicate, own_copy, slots_of, write
from edgekit.recipe.arguments import Arguments
from edgekit.recipe.tensors import Inputs, as_float32

# Relative to an output's largest value: differences allowed for folded weights, and for float32
# instead of float64.
FOLDED_TOLERANCE, FLOAT32_TOLERANCE = 1e-4, 1e-3
# Relative to the size of each group (fidelity/groups.py); wide, because a group may be one value
# near zero by chance. A group's size counts as at least SMALLEST times the output's largest value
# or 1, whichever is smaller: a time stamp must not hide the speed beside it.
GROUP_TOLERANCE, SMALLEST, TINY = 0.1, 1e-3, 1e-30


@dataclass(frozen=True)
class NormalForm:
    """``outputs``: of the model for ``example``, with their nesting. ``notes``: for the user."""

    model: nn.Module
    example: Inputs
    outputs: Any
    notes: tuple[str, ...]


def normal_form(model: nn.Module, arguments: Arguments, example: Inputs) -> NormalForm:
    """Bring a model into the normal form.

    Raises RecipeError, and whatever the model raises when it is run on ``example``.
    """
    types = other_types((*_tensors(model), *example))
    if any(not is_lazy(t) and t.is_inference() for t in _tensors(model)):
        model = own_copy(model)
    if types:
        model = _in_float32(model, arguments, example, types)
        example = as_float32(example)
    if any(is_lazy(tensor) for tensor in _tensors(model)):
        _initialise(model, arguments, example)
    ran = _run(model, arguments, example)
    if computes_weights(model):
        model, ran = _with_plain_weights(model, arguments, example, ran.outputs)
    if ran.changed or not arguments.are_plain:
        model = flat_model(model, arguments, ran.changed)
    notes = [f"computed in float32: weights or inputs are {' and '.join(types)}"] if types else []
    return NormalForm(model, example, ran.outputs, tuple(notes))


def _in_float32(
    model: nn.Module, arguments: Arguments, example: Inputs, types: Sequence[str]
) -> nn.Module:
    """A copy that computes in float32. Raises RecipeError: the model needs float64."""
    exact = None
    if types == ["float64"]:  # bfloat16 is less exact than float32
        with suppress(Exception):  # torch cannot compute with mixed types
            exact = _run(model, arguments, example).outputs
    torch.set_default_dtype(torch.float32)  # until the recipe is closed; graphs use it
    converted = own_copy(model)
    to_float32(converted)
    if not isinstance(converted, torch.fx.GraphModule):  # to_float32 rewrites graphs
        converted = with_forward(converted, Float32Forward)
    if exact is None:
        return converted
    outputs = _run(converted, arguments, as_float32(example)).outputs
    if differs := _difference(exact, outputs, FLOAT32_TOLERANCE):
        raise RecipeError(
            f"the model needs float64, which devices have no fast kernels for: in float32 its "
            f"outputs for example_inputs() differ {differs}",
            "compute differences of large numbers (times, coordinates) before the model, and give "
            "the model float32",
        )
    return converted


def _with_plain_weights(
    model: nn.Module, arguments: Arguments, example: Inputs, expected: Any
) -> tuple[nn.Module, _Ran]:
    folded = own_copy(model)
    fold_weights(folded)
    ran = _run(folded, arguments, example)
    if differs := _difference(expected, ran.outputs, FOLDED_TOLERANCE):
        raise RecipeError(
            "the model computes some of its weights in every inference, with different results: "
            f"with fixed weights its outputs differ {differs}",
            "remove the parametrization in model() (torch.nn.utils.parametrize."
            "remove_parametrizations), or make the weights depend on parameters only",
        )
    return folded, ran


@dataclass(frozen=True)
class _Ran:
    """A run. ``changed``: the indices of the inputs that the model changed."""

    outputs: Any
    changed: frozenset[int]


def _run(model: nn.Module, arguments: Arguments, example: Inputs) -> _Ran:
    """Run a copy, because a model may store something."""
    inputs = [tensor.clone() for tensor in example]
    args, keywords = arguments.rebuild(inputs)
    with torch.no_grad():
        outputs = own_copy(model)(*args, **keywords)
    pairs = enumerate(zip(inputs, example, strict=True))
    changed = {
        i for i, (after, before) in pairs if after._version or not torch.equal(after, before)
    }
    return _Ran(outputs, frozenset(changed))


def _initialise(model: nn.Module, arguments: Arguments, example: Inputs) -> None:
    """Initialise lazy modules by a first run, and restore whatever else that run writes.

    A lazy module that is never called has no weights and becomes an identity.
    """
    lazy = {name for name, each in model.named_modules() if isinstance(each, LazyModuleMixin)}
    others = {slot: v for slot, v in slots_of(model).items() if slot.module not in lazy}
    before, marks = {slot: duplicate(value) for slot, value in others.items()}, Marks.of(model)
    args, keywords = arguments.rebuild([tensor.clone() for tensor in example])
    with torch.no_grad():
        model(*args, **keywords)
    for slot in marks.written(model) & before.keys():
        write(model, slot, before[slot])
    for name, module in list(model.named_modules()):
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(map(is_lazy, tensors)):
            model.set_submodule(name, nn.Identity())


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _difference(before: Any, after: Any, tolerance: float) -> str:
    """How outputs differ, in words; empty if the difference is within ``tolerance``."""
    pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
    return next(filter(None, (_difference_of(*pair, tolerance) for pair in pairs)), "")


def _difference_of(before: Any, after: Any, tolerance: float) -> str:
    if not torch.is_tensor(before) or not before.is_floating_point():
        alike = torch.equal(before, after) if torch.is_tensor(before) else before == after
        return "" if alike else "in values that are not floating-point numbers"
    if before.shape != after.shape:
        return "in their shapes"
    # Rounded first: values beyond the range of float32 are infinite in both.
    exact, actual = before.float().double().numpy(), after.double().numpy()
    errors, sizes = abs(difference(actual, exact)), np.where(np.isfinite(exact), abs(exact), 0.0)
    worst, largest = errors.max(initial=0.0), sizes.max(initial=TINY)
    if worst > tolerance * largest:
        return f"by {worst / largest:.2g} of the largest value"
    least = max(SMALLEST * min(largest, 1.0), TINY)
    noise, signal = energy(np.square(errors), 1), energy(np.square(sizes), 1)
    for axis, squares in noise.groups.items():
        shares = np.sqrt(squares) / np.maximum(np.sqrt(signal.groups[axis]), least)
        if shares.max() > GROUP_TOLERANCE:
            return f"by {shares.max():.2g} of the size at index {shares.argmax()} of axis {axis}"
    return ""
