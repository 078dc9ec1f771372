"""Models that take flat tensors, whatever structure their own forward takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from edgekit.compress.copying import copy_of
from edgekit.recipe.arguments import Arguments

Forward = Callable[..., Any]


def flat_model(model: nn.Module, arguments: Arguments, changed: frozenset[int]) -> nn.Module:
    """A copy of ``model`` that takes the flat tensors of ``arguments``. The inputs at the indices
    ``changed``, which it changes in place, are copied first.
    """
    if isinstance(model, torch.fx.GraphModule) and arguments.are_plain:
        return _with_copies(model, changed)
    return with_forward(model, lambda own: FlatForward(own, arguments, changed))


class FlatForward:
    """A forward that rebuilds the structure that ``forward`` takes from flat tensors."""

    def __init__(self, forward: Forward, arguments: Arguments, changed: frozenset[int]) -> None:
        self.forward, self.arguments, self.changed = forward, arguments, changed

    def __call__(self, *tensors: torch.Tensor) -> Any:
        copied = [t.clone() if i in self.changed else t for i, t in enumerate(tensors)]
        args, keywords = self.arguments.rebuild(copied)
        return self.forward(*args, **keywords)


def with_forward(model: nn.Module, wrap: Callable[[Forward], Forward]) -> nn.Module:
    """A copy of ``model`` with ``wrap`` applied to its forward.

    The new forward is an attribute of the module, so its class and layer names are unchanged, and
    copies keep it. A module that cannot have such an attribute becomes ``Around(...).model``.
    """
    model = copy_of(model)
    if not may_have_another(model):
        model = Around(model).eval()
    inner = vars(model).get("_wrapped_forward", model.forward)  # may be wrapped already
    wrapped = wrap(inner)
    vars(model).update(_wrapped_forward=wrapped, forward=MethodType(_wrapped_forward, model))
    return model


def owner_of(forward: Forward) -> nn.Module:
    """The module whose forward this is or wraps. Recipes use partial to bind constants.

    Raises TypeError: it belongs to no module.
    """
    while not isinstance(forward, MethodType):
        inner = forward.func if isinstance(forward, partial) else getattr(forward, "forward", None)
        if inner is None:
            raise TypeError(f"forward is {forward!r}, which belongs to no module")
        forward = inner
    owner = forward.__self__
    assert isinstance(owner, nn.Module)
    return owner


def _wrapped_forward(model: nn.Module, *args: Any, **keywords: Any) -> Any:
    """Call the module's wrapped forward. torch.export needs a function, copying an attribute."""
    return vars(model)["_wrapped_forward"](*args, **keywords)


def _with_copies(model: torch.fx.GraphModule, changed: frozenset[int]) -> nn.Module:
    """Insert the copies in the graph itself, which keeps the names of its layers."""
    model = copy_of(model)
    graph = model.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]):
        for node in (inputs[index] for index in changed):
            copied = graph.call_function(torch.ops.aten.clone.default, (node,))
            node.replace_all_uses_with(copied, lambda user, copied=copied: user is not copied)
    model.recompile()
    return model


class Around(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.model(*args, **keywords)


def may_have_another(model: nn.Module) -> bool:
    """Whether ``with_forward`` can set the forward: not of a generated module, nor of one whose
    hooks or __call__ get the arguments before forward.
    """
    generated = isinstance(model, (torch.fx.GraphModule, torch.jit.ScriptModule))
    hooks = (*model._forward_pre_hooks, *model._forward_hooks)
    return not generated and not hooks and type(model).__call__ is nn.Module.__call__
