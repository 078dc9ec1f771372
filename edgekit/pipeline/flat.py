"""A model called with its flat tensors, whatever structure its own forward takes."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from edgekit.arguments import Arguments
from edgekit.compress.copying import copy_of

Forward = Callable[..., Any]


class FlatForward:
    """Puts flat tensors in the order of ``arguments`` back into the structure that ``forward``
    takes. Of the inputs at the places ``changed`` it is given a copy: it computes in place there.
    """

    def __init__(self, forward: Forward, arguments: Arguments, changed: frozenset[int]) -> None:
        self.forward, self.arguments, self.changed = forward, arguments, changed

    def __call__(self, *tensors: torch.Tensor) -> Any:
        own = [t.clone() if i in self.changed else t for i, t in enumerate(tensors)]
        args, keywords = self.arguments.rebuild(own)
        return self.forward(*args, **keywords)


def with_forward(model: nn.Module, wrap: Callable[[Forward], Forward]) -> nn.Module:
    """A copy of ``model`` with another forward around its own.

    An attribute of the module, so that its class and the names of its layers stay; it is copied
    with the module. Only a module that cannot have one becomes the part ``model`` of another.
    """
    model = copy_of(model)
    if not may_have_another(model):
        model = Around(model).eval()
    own = vars(model).get("_wrapped_forward", model.forward)  # what was wrapped before
    wrapped = wrap(own)
    vars(model).update(_wrapped_forward=wrapped, forward=MethodType(_wrapped_forward, model))
    return model


def owner_of(forward: Forward) -> nn.Module:
    """The module whose forward this is, or wraps."""
    while not isinstance(forward, MethodType):
        forward = forward.forward  # type: ignore[attr-defined]
    owner = forward.__self__
    assert isinstance(owner, nn.Module)
    return owner


def _wrapped_forward(model: nn.Module, *args: Any, **keywords: Any) -> Any:
    """torch.export wants a function; what it does lies in the module, to be copied with it."""
    return vars(model)["_wrapped_forward"](*args, **keywords)


class Around(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.model(*args, **keywords)


def may_have_another(model: nn.Module) -> bool:
    """Not a generated module; nor one whose hooks or __call__ see the arguments before forward."""
    generated = isinstance(model, (torch.fx.GraphModule, torch.jit.ScriptModule))
    hooks = (*model._forward_pre_hooks, *model._forward_hooks)
    return not generated and not hooks and type(model).__call__ is nn.Module.__call__
