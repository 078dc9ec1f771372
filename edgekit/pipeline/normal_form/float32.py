"""Models of bfloat16 and float64, computed in float32: devices have no kernels for these types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgekit.recipe.tensors import AS_FLOAT32, dtype_name

OTHERS = tuple(getattr(torch, name) for name in AS_FLOAT32)
# Attributes of every module.
OWN = vars(nn.Module()).keys()
CASTS = {torch.Tensor.double: torch.Tensor.float, torch.Tensor.bfloat16: torch.Tensor.float}


def other_types(tensors: Iterable[torch.Tensor]) -> list[str]:
    """The types among these tensors that are computed in float32 instead."""
    return sorted({dtype_name(tensor) for tensor in tensors if tensor.dtype in OTHERS})


def to_float32(model: nn.Module) -> None:
    """Convert the model's bfloat16 and float64 tensors to float32, in place."""
    model._apply(_float32)  # type: ignore[no-untyped-call]
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in OWN and isinstance(value, (torch.Tensor, tuple, list, dict)):
                vars(module)[name] = pytree.tree_map_only(torch.Tensor, _float32, value)
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.args = map_aggregate(node.args, _float32)
                node.kwargs = map_aggregate(node.kwargs, _float32)
            module.recompile()


class Float32Forward:
    """A forward in which tensors are created as or cast to float32 instead of the other types."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        with _Float32():
            return self.forward(*args, **keywords)


class _Float32(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, _: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        arguments = pytree.tree_map(_float32, (args, kwargs or {}))
        return pytree.tree_map(
            _float32, CASTS.get(function, function)(*arguments[0], **arguments[1])
        )


def _float32(value: Any) -> Any:
    if torch.is_tensor(value):
        return value.float() if value.dtype in OTHERS else value
    return torch.float32 if isinstance(value, torch.dtype) and value in OTHERS else value
