"""Copies of models whose attributes may refuse to be copied."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_of(module: Module, memo: Mapping[int, Any] | None = None) -> Module:
    """A deep copy that shares what cannot be copied: locks, generators, open files.
    ``memo``: existing copies, in deepcopy's form.
    """
    copies = dict(memo or {})
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # from torch's own pytrees, in exported models
        return _copy(module, copies)


def _copy(module: Module, copies: dict[int, Any]) -> Module:
    try:
        return copy.deepcopy(module, dict(copies))
    except Exception:  # the attribute's class may raise anything
        return copy.deepcopy(module, _shared(module) | copies)


def _shared(module: nn.Module) -> dict[int, Any]:
    """A deepcopy memo in which each attribute that refuses to be copied is its own copy."""
    layers = {id(layer) for layer in module.modules()}
    shared: dict[int, Any] = {}
    for layer in module.modules():
        for name, value in vars(layer).items():
            if name != "_modules" and id(value) not in layers and not _can_be_copied(value):
                shared[id(value)] = value
    return shared


def _can_be_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
