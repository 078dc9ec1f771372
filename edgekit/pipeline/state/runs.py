"""Runs of a model on copies of its inputs, and the comparison of their outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.pipeline.normal_form.slots import near
from edgekit.recipe.tensors import Inputs

Outputs = list[torch.Tensor]


def altered(inputs: Inputs, seed: int) -> Inputs:
    """Other inputs of the same kind: floats with noise, other values in another order."""
    random = torch.Generator().manual_seed(seed)
    return tuple(_altered_tensor(tensor, random) for tensor in inputs)


def _altered_tensor(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.flatten().roll(1).reshape(tensor.shape)
    size = float(tensor.float().std(correction=0)) or 1.0
    return tensor + (torch.randn(tensor.shape, generator=random) * size).to(tensor.dtype)


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return model(*own_inputs(inputs))


def own_inputs(inputs: Inputs) -> Inputs:
    return tuple(tensor.clone() for tensor in inputs)


def flat_outputs(result: Any) -> Outputs:
    return [t.detach().clone() for t in pytree.tree_leaves(result) if torch.is_tensor(t)]


def near_outputs(a: Outputs, b: Outputs) -> bool:
    return len(a) == len(b) and all(near(x, y) for x, y in zip(a, b, strict=True))


def alike(a: Any, b: Any) -> bool:
    return near_outputs(flat_outputs(a), flat_outputs(b))
