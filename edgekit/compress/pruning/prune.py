"""Structured pruning: the channels that matter least for what they cost, until the MACs fit.

One chunk of channels after another goes, the one whose importance (importance.py, trials.py) for
each multiply-accumulate (MAC) that it saves is least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgekit.compress.pruning.channels import (
    LAYERS,
    TRANSPOSED,
    Group,
    Refused,
    find_groups,
    same_function,
    silenced,
    with_own_weights,
    without_channels,
)
from edgekit.compress.pruning.importance import Importance, by_block, least_first
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.plan import Prune
from edgekit.recipe.tensors import Inputs


@dataclass(frozen=True)
class Pruned:
    """``gone``: which channels of a group went, by its first layer. ``lost``: of
    every layer with weights of its own, the outputs that it has no more. ``widths``: of
    each group, now and before. ``refused``: what may not lose any.
    """

    model: nn.Module
    gone: dict[str, list[int]]
    lost: dict[str, list[int]]
    widths: dict[str, tuple[int, int]]
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
        why = told(refused) or "  all channels are outputs of the model"
        raise RuntimeFailure(f"no layer of this model can be pruned:\n{why}")
    costs = _Costs(model, example, groups)
    channels = importance(model, groups)
    scores = {g.layer: by_block(channels[g.layer], g.unit) for g in groups}
    choose = _uniformly if wanted.spread == "uniform" else _by_worth
    kept = choose(groups, scores, costs, wanted)
    gone = {
        group.layer: sorted(least_first(scores[group.layer])[: group.count - kept[group.layer]])
        for group in groups
        if kept[group.layer] < group.count
    }
    pruned = without_channels(model, example, gone)
    if not same_function(pruned, silenced(model, groups, gone), example):
        raise RuntimeFailure("the pruned model computes something else than the model without them")
    cut = [group for group in groups if group.layer in gone]
    lost: dict[str, list[int]] = {name: [] for name in with_own_weights(model)}
    for group in cut:
        for place in group.places:
            if place.output and place.layer in lost:
                lost[place.layer] += place.of(gone[group.layer])
    widths = {group.layer: (kept[group.layer], group.count) for group in cut}
    return Pruned(pruned, gone, lost, widths, tuple(refused))


def told(refused: Iterable[Refused]) -> str:
    """Layers that may not be pruned and why, a line each."""
    return "\n".join(f"  {one.layer or '(the model itself)'}: {one.why}" for one in refused)


def macs_of(model: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of one run of ``example``."""
    return sum(macs_by_layer(model, example).values())


def macs_by_layer(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Multiply-accumulates of one run of ``example``, by layer: of convolutions, linear and
    recurrent layers, and of the projections of torch's own attention.
    """
    found: dict[str, int] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, (*LAYERS, *TRANSPOSED, nn.RNNBase, nn.MultiheadAttention)):

            def count(module: nn.Module, given: Any, out: Any, name: str = name) -> None:
                found[name] = found.get(name, 0) + _macs(module, given, out)

            hooks.append(layer.register_forward_hook(count))
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _macs(layer: nn.Module, given: Any, out: Any) -> int:
    matrices = sum(w.numel() for w in layer.parameters(recurse=False) if w.dim() > 1)
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        if not given or not torch.is_tensor(given[0]):
            return 0  # packed, or called by keywords
        if isinstance(layer, nn.MultiheadAttention):
            matrices += layer.out_proj.weight.numel()
        return matrices * (given[0].numel() // given[0].shape[-1])
    # each output is a sum over a row of the weight; transposed, each input goes to one
    ends, weight = given[0] if isinstance(layer, TRANSPOSED) else out, layer.weight
    assert isinstance(weight, torch.Tensor)
    return int(ends.numel() * weight[0].numel())


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
        shapes = {
            name: layers[name].weight.shape[:2]
            for name in self.macs
            if isinstance(layers[name], (*LAYERS, *TRANSPOSED))
        }
        self.widths = {
            name: shape[::-1] if isinstance(layers[name], TRANSPOSED) else shape
            for name, shape in shapes.items()
        }

    @property
    def total(self) -> int:
        return sum(self.macs.values())

    def of(self, kept: Mapping[str, int]) -> float:
        lost = {name: [0.0, 0.0] for name in self.widths}
        for group in self.groups:
            gone = group.count - kept[group.layer]
            for place in group.places:
                if place.layer in lost:
                    repeat = len(place.channels) / group.count
                    lost[place.layer][0 if place.output else 1] += gone * repeat
        left = 0.0
        for name, macs in self.macs.items():
            if name not in self.widths:
                left += macs
                continue
            outs, ins = self.widths[name]
            left += macs * (1 - lost[name][0] / outs) * (1 - lost[name][1] / ins)
        return left


def _by_worth(
    groups: Sequence[Group], scores: Importance, costs: _Costs, wanted: Prune
) -> dict[str, int]:
    """Chunk by chunk, the least importance for a MAC first."""
    goal = (1 - wanted.ratio) * costs.total
    kept = {group.layer: group.count for group in groups}
    ordered = {g.layer: scores[g.layer][least_first(scores[g.layer])] for g in groups}
    now = costs.of(kept)
    while now > goal:
        best: tuple[float, str, int, float] | None = None
        for group in groups:
            width = _narrower(kept[group.layer], group.step(wanted.step))
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
        kept = {g.layer: _scaled(g, percent / 100, wanted.step) for g in groups}
        if costs.of(kept) <= goal:
            return kept
    raise _too_much(wanted, 1 - costs.of(kept) / costs.total)


def _scaled(group: Group, share: float, step: int) -> int:
    """The nearest width that kernels like, or that is whole blocks."""
    step = group.step(step)
    return min(group.count, max(step, step * round(group.count * share / step)))


def _narrower(width: int, step: int) -> int | None:
    """The next width that kernels like; None where there is none."""
    narrower = (width - 1) // step * step
    return narrower if narrower >= step else None


def _too_much(wanted: Prune, most: float) -> SettingError:
    return SettingError(
        f"{wanted.ratio:.0%} of the MACs cannot be pruned from this model: at most {most:.0%}",
        f"layers keep {wanted.step} channels or more; the layers that are not pruned count too",
    )
