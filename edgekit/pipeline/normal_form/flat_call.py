"""A model called with its flat tensors, whatever structure its own forward takes."""

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
    """A copy of ``model`` that takes the flat tensors of ``arguments``, and computes on copies of
    those at the places ``changed``, which it would change.
    """
    if isinstance(model, torch.fx.GraphModule) and arguments.are_plain:
        return _with_copies(model, changed)
    return with_forward(model, lambda own: FlatForward(own, arguments, changed))


class FlatForward:
    """Puts flat tensors back into the structure that ``forward`` takes."""

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
    """The module whose forward this is, or wraps; partial is how a recipe binds a constant."""
    while not isinstance(forward, MethodType):
        inner = forward.func if isinstance(forward, partial) else getattr(forward, "forward", None)
        if inner is None:
            raise TypeError(f"forward is {forward!r}, which belongs to no module")
        forward = inner
    owner = forward.__self__
    assert isinstance(owner, nn.Module)
    return owner


def _wrapped_forward(model: nn.Module, *args: Any, **keywords: Any) -> Any:
    """torch.export wants a function; what it does lies in the module, to be copied with it."""
    return vars(model)["_wrapped_forward"](*args, **keywords)


def _with_copies(model: torch.fx.GraphModule, changed: frozenset[int]) -> nn.Module:
    """As with_forward, in the graph: so its layers keep their names."""
    model = copy_of(model)
    graph = model.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]):
        for node in (inputs[index] for index in changed):
            own = graph.call_function(torch.ops.aten.clone.default, (node,))
            node.replace_all_uses_with(own, lambda user, own=own: user is not own)
    model.recompile()
    return model


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
