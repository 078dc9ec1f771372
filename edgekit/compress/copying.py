"""A copy of a model, whatever its attributes are."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_of(module: Module) -> Module:
    """A deep copy. What no copy can be made of (locks, generators, open files) is shared."""
    try:
        return copy.deepcopy(module)
    except Exception:  # of any kind: it comes from the attribute's own class
        return copy.deepcopy(module, _shared(module))


def _shared(module: nn.Module) -> dict[int, Any]:
    """The attributes that refuse to be copied, as deepcopy takes them: each its own copy."""
    layers = {id(layer) for layer in module.modules()}
    found: dict[int, Any] = {}
    for layer in module.modules():
        for name, value in vars(layer).items():
            if name != "_modules" and id(value) not in layers and not _can_be_copied(value):
                found[id(value)] = value
    return found


def _can_be_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
