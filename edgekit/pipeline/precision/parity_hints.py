"""Hints for a failed parity, one for each possible cause."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.plan import Precision
from edgekit.recipe.tensors import Inputs

# From this normalised size on, the layer_norm of ExecuTorch 1.5.1 is wrong in half precision.
WRONG_NORM_SIZE = 256
HALF = (torch.float16, torch.bfloat16)


def why_unequal(model: nn.Module, example: Inputs, precision: Precision) -> str:
    """The hint for an artifact that failed parity, chosen by the model's properties."""
    changed, differs = _run_twice(model, example)
    if changed:
        return (
            f"the model changes its buffer {changed} in inference, but the artifact does not: make "
            "it an input and an output of forward"
        )
    if differs:
        return (
            "the model's outputs differ for the same input: do not use dropout or random numbers "
            "in inference"
        )
    if wrong := _wrong_norm(model):
        return (
            f"the runtime's layer_norm is wrong in half precision from {WRONG_NORM_SIZE} channels "
            f"on ({wrong}): convert the model to float32 (model.float())"
        )
    if precision == "fp16":
        return (
            "half precision holds too little for a value of this model: --precision fp32 computes "
            "in float32, and float_layers in a plan names layers that do so in fp16"
        )
    if precision != "fp32":
        return (
            "a kernel rounds differently from its reference: --precision mixed keeps sensitive "
            "layers float, --precision fp32 all layers"
        )
    return (
        "a kernel of the runtime is wrong for this model: build parts of the model separately to "
        "find the layer, write it in another form, and report it to the runtime's developers"
    )


def _run_twice(model: nn.Module, example: Inputs) -> tuple[str | None, bool]:
    """The first buffer that a run changes, and whether the outputs of a second run differ."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        first, second = (
            torch.utils._pytree.tree_leaves(model(*(tensor.clone() for tensor in example)))
            for _ in range(2)
        )
    changed = [n for n, buffer in model.named_buffers() if not _same(buffer, before[n])]
    for name, buffer in model.named_buffers():
        buffer.data = before[name]
    differs = any(not _same(one, other) for one, other in zip(first, second, strict=True))
    return (changed[0] if changed else None), differs


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, equal_nan=True)


def _wrong_norm(model: nn.Module) -> str | None:
    half = any(parameter.dtype in HALF for parameter in model.parameters())
    for name, module in model.named_modules():
        if half and isinstance(module, nn.LayerNorm):
            size = torch.Size(module.normalized_shape).numel()
            if size >= WRONG_NORM_SIZE:
                return name or "the model itself"
    return None
