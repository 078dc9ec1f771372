"""Names of states, and reasons why a slot cannot be a state."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.slots import Slot, Values
from edgekit.pipeline.state.explicit import State


def reason_against(slot: Slot, before: Any, values: Sequence[Any]) -> tuple[str, str]:
    """Why a slot cannot be an input of the model, and what to do."""
    shapes = [tuple(value.shape) for value in (before, *values) if torch.is_tensor(value)]
    last = values[-1]
    if torch.is_tensor(before) and len(set(shapes)) > 1:
        changes = " to ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        return f"its shape changes, from {changes}", (
            "keep the last N steps in a buffer of fixed shape: a device plans its memory before it "
            "runs"
        )
    if torch.is_tensor(before):
        return "the first input fills it for all later ones", (
            "compute it in every call (for example with torch.where), or make it an input"
        )
    if before is None and torch.is_tensor(last):
        return "it is None at first", (
            "make it a buffer in __init__: "
            f'self.register_buffer("{slot.attribute}", torch.zeros({list(last.shape)}))'
        )
    return f"it is a Python {type(last if before is None else before).__name__}, not a tensor", (
        "keep state in tensors of fixed shape: self.register_buffer(name, tensor)"
    )


def named_states(
    before: Values, groups: Sequence[tuple[Slot, ...]], prefix: str, taken: Sequence[str]
) -> tuple[State, ...]:
    """States named after their slots, without ``prefix``. ``taken``: the names of inputs."""
    states: list[State] = []
    for group in groups:
        for index, (path, tensor) in enumerate(pytree.tree_leaves_with_path(before[group[0]])):
            whole = f"{group[0]}{pytree.keystr(path)}".removeprefix(prefix)
            name = re.sub(r"\W+", "_", whole).strip("_")
            while name in (*taken, *(state.name for state in states)):
                name += "_state"
            initial = tensor.detach().clone(memory_format=torch.contiguous_format)
            states.append(State(name, group, index, initial))
    return tuple(states)
