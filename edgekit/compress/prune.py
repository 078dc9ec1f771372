"""Structured pruning: the channels that matter least for what they cost, until the MACs fit.

One chunk of channels after another goes, the one whose importance for each multiply-accumulate
(MAC) that it saves is least. The importance of a channel is how far the outputs move without it:
the Fisher information of a gate on it, from squared gradients (L. Theis et al., 2018,
arXiv:1801.05787), which needs no labels, for the labels are drawn from the model's own scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from edgekit.compress.channels import (
    Group,
    Refused,
    find_groups,
    same_function,
    silenced,
    without_channels,
)
from edgekit.compress.divergence import is_classes
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.plan import Prune
from edgekit.recipe import Inputs

# The importance of each channel, by the group's first layer.
Importance = Mapping[str, torch.Tensor]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Pruned:
    """``gone``: which channels of a group went, by its first layer. ``refused``: what may not
    lose any.
    """

    model: nn.Module
    gone: dict[str, list[int]]
    refused: tuple[Refused, ...]


def prune(
    model: nn.Module,
    example: Inputs,
    wanted: Prune,
    importance: Callable[[nn.Module, Sequence[Group]], Importance],
) -> Pruned:
    """A copy with ``wanted.ratio`` of the MACs removed; ``model`` stays as it is.

    Raises SettingError (so much cannot go), RuntimeFailure (nothing can be pruned, or what was
    pruned is not the function that it should be).
    """
    groups, refused = find_groups(model, example)
    if not groups:
        raise RuntimeFailure(f"no layer of this model can be pruned:\n{told(refused)}")
    costs = _Costs(model, example, groups)
    scores = importance(model, groups)
    choose = _uniformly if wanted.spread == "uniform" else _by_worth
    kept = choose(groups, scores, costs, wanted)
    gone = {
        group.layer: sorted(_least_first(scores[group.layer])[: group.count - kept[group.layer]])
        for group in groups
        if kept[group.layer] < group.count
    }
    pruned = without_channels(model, example, gone)
    if not same_function(pruned, silenced(model, groups, gone), example):
        raise RuntimeFailure("the pruned model computes something else than the model without them")
    return Pruned(pruned, gone, tuple(refused))


def told(refused: Iterable[Refused]) -> str:
    """Layers that may not be pruned and why, a line each."""
    return "\n".join(f"  {one.layer or '(the model itself)'}: {one.why}" for one in refused)


def by_size(power: int) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """L1 (``power`` 1) or L2 norm of all weights of a channel, against the group's mean."""

    def importance(model: nn.Module, groups: Sequence[Group]) -> Importance:
        layers = dict(model.named_modules())
        return {g.layer: _relative(_sizes(layers, g, power)) for g in groups}

    return importance


def by_batch_norm(model: nn.Module, groups: Sequence[Group]) -> Importance:
    """The size of the batch norms' scales (Z. Liu et al., 2017, arXiv:1708.06519), against the
    group's mean; L2 where a group has none.
    """
    layers = dict(model.named_modules())
    found = {}
    for group in groups:
        total = torch.zeros(group.count)
        for place in group.places:
            layer = layers[place.layer]
            if place.output and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                scales = layer.weight.detach().abs()[list(place.channels)]
                total.index_add_(0, torch.tensor(place.roots), scales)
        found[group.layer] = _relative(total if total.any() else _sizes(layers, group, 2))
    return found


def by_fisher(
    data: Sequence[Inputs], seed: int
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """How far the outputs move without a channel, for these inputs; no labels are needed."""

    def importance(model: nn.Module, groups: Sequence[Group]) -> Importance:
        draw = torch.Generator().manual_seed(seed)

        def loss(inputs: Inputs) -> torch.Tensor:
            outputs = torch.utils._pytree.tree_leaves(model(*inputs))
            return _own_loss([t for t in outputs if t.is_floating_point()], draw)

        return _gates(model, groups, [partial(loss, inputs) for inputs in data])

    return importance


def by_taylor(
    losses: Callable[[nn.Module], Iterable[Callable[[], torch.Tensor]]],
) -> Callable[[nn.Module, Sequence[Group]], Importance]:
    """The squared first-order change of the loss with labels (P. Molchanov et al., 2019,
    arXiv:1906.10771); ``losses`` gives one for each batch.
    """
    return lambda model, groups: _gates(model, groups, list(losses(model)))


def macs_of(model: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of one run of ``example``, in convolutions and linear layers."""
    return sum(macs_by_layer(model, example).values())


def macs_by_layer(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Multiply-accumulates of one run of ``example``, by convolution and linear layer."""
    found: dict[str, int] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS):

            def count(module: nn.Module, _: object, out: torch.Tensor, name: str = name) -> None:
                weight = module.weight
                assert isinstance(weight, torch.Tensor)
                found[name] = found.get(name, 0) + out.numel() * weight[0].numel()

            hooks.append(layer.register_forward_hook(count))
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class _Costs:
    """MACs when some groups are narrower, without building that model."""

    model: nn.Module
    example: Inputs
    groups: Sequence[Group]
    macs: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.macs = macs_by_layer(self.model, self.example)
        layers = dict(self.model.named_modules())
        # of each layer: how many outputs, and how many inputs one output reads
        self.widths = {n: (len(layers[n].weight), layers[n].weight.shape[1]) for n in self.macs}

    @property
    def total(self) -> int:
        return sum(self.macs.values())

    def of(self, kept: Mapping[str, int]) -> float:
        lost = {name: [0.0, 0.0] for name in self.macs}
        for group in self.groups:
            gone = group.count - kept[group.layer]
            for place in group.places:
                if place.layer in lost:
                    repeat = len(place.channels) / group.count
                    lost[place.layer][0 if place.output else 1] += gone * repeat
        left = 0.0
        for name, macs in self.macs.items():
            outs, ins = self.widths[name]
            left += macs * (1 - lost[name][0] / outs) * (1 - lost[name][1] / ins)
        return left


def _by_worth(
    groups: Sequence[Group], scores: Importance, costs: _Costs, wanted: Prune
) -> dict[str, int]:
    """Chunk by chunk, the least importance for a MAC first."""
    goal = (1 - wanted.ratio) * costs.total
    kept = {group.layer: group.count for group in groups}
    ordered = {g.layer: scores[g.layer][_least_first(scores[g.layer])] for g in groups}
    now = costs.of(kept)
    while now > goal:
        best: tuple[float, str, int, float] | None = None
        for group in groups:
            width = _narrower(kept[group.layer], wanted.step)
            if width is None:
                continue
            macs = costs.of({**kept, group.layer: width})
            chunk = ordered[group.layer][group.count - kept[group.layer] : group.count - width]
            worth = float(chunk.sum()) / max(now - macs, 1e-9)
            if best is None or worth < best[0]:
                best = worth, group.layer, width, macs
        if best is None:
            raise _too_much(wanted, 1 - now / costs.total)
        _, layer, width, now = best
        kept[layer] = width
    return kept


def _uniformly(
    groups: Sequence[Group],
    scores: Importance,  # noqa: ARG001
    costs: _Costs,
    wanted: Prune,
) -> dict[str, int]:
    """The same share of every group, as much as is needed."""
    goal = (1 - wanted.ratio) * costs.total
    kept = {group.layer: group.count for group in groups}
    for percent in range(100, -1, -1):
        kept = {
            g.layer: min(g.count, _rounded(g.count * percent / 100, wanted.step)) for g in groups
        }
        if costs.of(kept) <= goal:
            return kept
    raise _too_much(wanted, 1 - costs.of(kept) / costs.total)


def _rounded(width: float, step: int) -> int:
    """The nearest width that kernels like."""
    return max(step, step * round(width / step))


def _narrower(width: int, step: int) -> int | None:
    """The next width that kernels like; None where there is none."""
    narrower = (width - 1) // step * step
    return narrower if narrower >= step else None


def _too_much(wanted: Prune, most: float) -> SettingError:
    return SettingError(
        f"{wanted.ratio:.0%} of the MACs cannot be pruned from this model: at most {most:.0%}",
        f"layers keep {wanted.step} channels or more; the layers that are not pruned count too",
    )


def _least_first(scores: torch.Tensor) -> list[int]:
    """A stable order, so that equal weights give equal models."""
    found: list[int] = torch.argsort(scores, stable=True).tolist()
    return found


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


def _own_loss(outputs: Sequence[torch.Tensor], draw: torch.Generator) -> torch.Tensor:
    """Its squared gradients are Fisher information: labels drawn from the model's own scores, or
    unit noise around the outputs.
    """
    if is_classes(list(outputs)):
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
    """The mean square of the loss's gradient by a gate on each channel, where it is read."""
    layers = dict(model.named_modules())
    readers = sorted({place.layer for group in groups for place in group.readers})
    weights = [layers[name].weight for name in readers]
    for weight in weights:
        weight.requires_grad_(True)
    found = {group.layer: torch.zeros(group.count) for group in groups}
    for loss in losses:
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
        gates = {
            name: (gradient * weight.detach()).transpose(0, 1).flatten(1).sum(1)
            for name, weight, gradient in zip(readers, weights, gradients, strict=True)
            if gradient is not None
        }
        for group in groups:
            gate = torch.zeros(group.count)
            for place in group.readers:
                if place.layer in gates:
                    values = gates[place.layer][list(place.channels)]
                    gate.index_add_(0, torch.tensor(place.roots), values)
            found[group.layer] += gate.square() / len(losses)
    for weight in weights:
        weight.requires_grad_(False)
    return found
