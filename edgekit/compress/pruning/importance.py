"""The importance of channels: how far the outputs, or the loss, move without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from edgekit.compress.pruning.channel_groups import LAYERS, TRANSPOSED, Group
from edgekit.recipe.tensors import Inputs

# The importance of each channel, by the group's first layer.
Importance = Mapping[str, torch.Tensor]


def by_size(power: int) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """The L1 (``power`` 1) or L2 norm of a channel's weights, relative to the group's mean."""

    def importance(model: nn.Module, groups: Sequence[Group]) -> Importance:
        layers = dict(model.named_modules())
        return {g.layer: _relative(_sizes(layers, g, power)) for g in groups}

    return importance


def by_batch_norm(model: nn.Module, groups: Sequence[Group]) -> Importance:
    """The size of the batch norms' scales (Z. Liu et al., 2017, arXiv:1708.06519), relative to the
    group's mean. Groups without a batch norm use L2.
    """
    layers = dict(model.named_modules())
    scores = {}
    for group in groups:
        total = torch.zeros(group.count)
        for place in group.places:
            layer = layers[place.layer]
            if place.output and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                scales = layer.weight.detach().abs()[list(place.channels)]
                total.index_add_(0, torch.tensor(place.roots), scales)
        scores[group.layer] = _relative(total if total.any() else _sizes(layers, group, 2))
    return scores


def by_fisher(
    data: Sequence[Inputs], seed: int, by_classes: bool
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """How far the outputs move without a channel, for these inputs; needs no labels.

    ``by_classes``: the model's only output is class scores, of shape (N, classes).
    """
    return lambda model, groups: _gates(model, groups, _own_losses(model, data, seed, by_classes))


def by_taylor(
    losses: Callable[[nn.Module], Iterable[Callable[[], torch.Tensor]]],
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """The squared first-order change of the loss with labels (P. Molchanov et al., 2019,
    arXiv:1906.10771). ``losses`` yields one loss for each batch.
    """
    return lambda model, groups: _gates(model, groups, list(losses(model)))


def least_first(scores: torch.Tensor) -> list[int]:
    """Indices by rising score, stably sorted, so that equal weights give equal models."""
    order: list[int] = torch.argsort(scores, stable=True).tolist()
    return order


def by_block(scores: torch.Tensor, unit: int) -> torch.Tensor:
    """The mean score of its block for every channel."""
    return scores.reshape(-1, unit).mean(1).repeat_interleave(unit)


def _relative(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.mean().clamp(min=1e-12)


def _sizes(layers: Mapping[str, nn.Module], group: Group, power: int) -> torch.Tensor:
    total = torch.zeros(group.count)
    for place in group.places:
        weight = layers[place.layer].weight
        if not isinstance(layers[place.layer], LAYERS) or not isinstance(weight, torch.Tensor):
            continue
        rows = weight.detach() if place.output else weight.detach().transpose(0, 1)
        sizes = rows.flatten(1).abs().pow(power).sum(1)[list(place.channels)]
        total.index_add_(0, torch.tensor(place.roots), sizes)
    return total.pow(1 / power)


def _own_losses(
    model: nn.Module, data: Sequence[Inputs], seed: int, by_classes: bool
) -> list[Callable[[], torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)

    def loss(inputs: Inputs) -> torch.Tensor:
        outputs = torch.utils._pytree.tree_leaves(model(*inputs))
        return _own_loss([t for t in outputs if t.is_floating_point()], draw, by_classes)

    return [partial(loss, inputs) for inputs in data]


def _own_loss(
    outputs: Sequence[torch.Tensor], draw: torch.Generator, by_classes: bool
) -> torch.Tensor:
    """A loss whose squared gradients are Fisher information: labels are drawn from the model's own
    scores, or unit noise is added to the outputs.
    """
    if by_classes:
        labels = torch.multinomial(outputs[0].detach().softmax(1), 1, generator=draw)[:, 0]
        return nn.functional.cross_entropy(outputs[0], labels, reduction="sum")
    total = torch.zeros(())
    for output in outputs:
        scale = output.detach().square().mean().sqrt().clamp(min=1e-12)
        noise = torch.randn(output.shape, generator=draw)
        total = total + (output / scale * noise).sum() / math.sqrt(output.numel())
    return total


def _gates(
    model: nn.Module, groups: Sequence[Group], losses: Sequence[Callable[[], torch.Tensor]]
) -> Importance:
    """The mean square of the loss's gradient with respect to a gate on each channel's readers."""
    layers = dict(model.named_modules())
    readers = sorted({place.layer for group in groups for place in group.readers})
    weights = [layers[name].weight for name in readers]
    # the axis of the inputs
    axes = {name: int(not isinstance(layers[name], TRANSPOSED)) for name in readers}
    for weight in weights:
        weight.requires_grad_(True)
    scores = {group.layer: torch.zeros(group.count) for group in groups}
    for loss in losses:
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
        gates = {
            name: (gradient * weight.detach()).transpose(0, axes[name]).flatten(1).sum(1)
            for name, weight, gradient in zip(readers, weights, gradients, strict=True)
            if gradient is not None
        }
        for group in groups:
            gate = torch.zeros(group.count)
            for place in group.readers:
                if place.layer in gates:
                    values = gates[place.layer][list(place.channels)]
                    gate.index_add_(0, torch.tensor(place.roots), values)
            scores[group.layer] += gate.square() / len(losses)
    for weight in weights:
        weight.requires_grad_(False)
    return scores
