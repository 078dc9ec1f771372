"""A copy of a model, whatever its attributes are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_of(module: Module, memo: Mapping[int, Any] | None = None) -> Module:
    """A deep copy. What no copy can be made of (locks, generators, open files) is shared.
    ``memo``: copies that are there already, as deepcopy takes them.
    """
    known = dict(memo or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own pytrees, in exported models
        return _copy(module, known)


def _copy(module: Module, known: dict[int, Any]) -> Module:
    try:
        return copy.deepcopy(module, dict(known))
    except Exception:  # of any kind: it comes from the attribute's own class
        return copy.deepcopy(module, _shared(module) | known)


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
