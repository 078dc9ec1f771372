"""What a state is called, and why something can be none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.slots import Slot, Values
from edgekit.pipeline.state.explicit import State


def reason_against(slot: Slot, before: Any, values: Sequence[Any]) -> tuple[str, str]:
    """Why a slot can be no input of the model, and what to do."""
    shapes = [tuple(value.shape) for value in (before, *values) if torch.is_tensor(value)]
    last = values[-1]
    if torch.is_tensor(before) and len(set(shapes)) > 1:
        said = " to ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        return f"its shape changes, from {said}", (
            "a device plans its memory before it runs: keep the last N steps in a buffer of fixed "
            "shape"
        )
    if torch.is_tensor(before):
        return "the first input fills it for all others", (
            "compute it in every call (with torch.where, say), or give it to the model as an input"
        )
    if before is None and torch.is_tensor(last):
        return "it is None at first", (
            "let it be a buffer from the start, in __init__: "
            f'self.register_buffer("{slot.attribute}", torch.zeros({list(last.shape)}))'
        )
    return f"it is a Python {type(last if before is None else before).__name__}, not a tensor", (
        "keep what is remembered in tensors of fixed shape: self.register_buffer(name, tensor)"
    )


def named_states(
    before: Values, groups: Sequence[tuple[Slot, ...]], prefix: str, taken: Sequence[str]
) -> tuple[State, ...]:
    """A state has its slot's name, ``prefix`` left out; ``taken`` are names of inputs."""
    found: list[State] = []
    for group in groups:
        for index, (path, tensor) in enumerate(pytree.tree_leaves_with_path(before[group[0]])):
            whole = f"{group[0]}{pytree.keystr(path)}".removeprefix(prefix)
            name = re.sub(r"\W+", "_", whole).strip("_")
            while name in (*taken, *(state.name for state in found)):
                name += "_state"
            initial = tensor.detach().clone(memory_format=torch.contiguous_format)
            found.append(State(name, group, index, initial))
    return tuple(found)
