"""Structured pruning: remove the channels with the least importance for their cost.

Chunks of channels are removed until the multiply-accumulates (MACs) fit. Next is the chunk with the
least importance (importance.py, trials.py) for each MAC that it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgekit.compress.pruning.channel_groups import (
    LAYERS,
    TRANSPOSED,
    Group,
    UnprunableLayer,
    find_groups,
    same_function,
    with_channels_at_zero,
    with_own_weights,
    without_channels,
)
from edgekit.compress.pruning.importance import Importance, by_block, least_first
from edgekit.errors import RuntimeFailure, SettingError, nearest
from edgekit.plan import Prune
from edgekit.recipe.tensors import Inputs


@dataclass(frozen=True)
class PruningResult:
    """A pruned model.

    ``removed``: the removed channels of each group, by its first layer. ``removed_outputs``: the
    removed outputs of every layer with weights of its own. ``widths``: of each group, after and
    before. ``refused``: layers that cannot lose channels.
    """

    model: nn.Module
    removed: dict[str, list[int]]
    removed_outputs: dict[str, list[int]]
    widths: dict[str, tuple[int, int]]
    refused: tuple[UnprunableLayer, ...]


def prune(
    model: nn.Module,
    example: Inputs,
    wanted: Prune,
    importance: Callable[[nn.Module, Sequence[Group]], Importance],
) -> PruningResult:
    """A copy with ``wanted.ratio`` of the MACs removed, or with ``wanted.widths``; ``model`` is
    unchanged.

    Raises SettingError (so many MACs cannot be removed, or a group cannot have such a width),
    RuntimeFailure (no layer can be pruned, or the pruned model's outputs are wrong).
    """
    groups, refused = find_groups(model, example)
    if not groups:
        why = refusal_lines(refused) or "  all channels are outputs of the model"
        raise RuntimeFailure(f"no layer of this model can be pruned:\n{why}")
    channels = importance(model, groups)
    scores = {g.layer: by_block(channels[g.layer], g.unit) for g in groups}
    widths_left = _widths_left(model, example, groups, scores, wanted)
    removed = {
        group.layer: sorted(
            least_first(scores[group.layer])[: group.count - widths_left[group.layer]]
        )
        for group in groups
        if widths_left[group.layer] < group.count
    }
    pruned = without_channels(model, example, removed)
    if not same_function(pruned, with_channels_at_zero(model, groups, removed), example):
        raise RuntimeFailure(
            "the pruned model's outputs differ from those of the model with these channels at zero"
        )
    pruned_groups = [group for group in groups if group.layer in removed]
    lost: dict[str, list[int]] = {name: [] for name in with_own_weights(model)}
    for group in pruned_groups:
        for place in group.places:
            if place.output and place.layer in lost:
                lost[place.layer] += place.of(removed[group.layer])
    widths = {group.layer: (widths_left[group.layer], group.count) for group in pruned_groups}
    return PruningResult(pruned, removed, lost, widths, tuple(refused))


def refusal_lines(refused: Iterable[UnprunableLayer]) -> str:
    """A line for each layer that cannot be pruned, with the reason."""
    return "\n".join(f"  {one.layer or '(the model itself)'}: {one.why}" for one in refused)


def macs_of(model: nn.Module, example: Inputs) -> int:
    """Multiply-accumulates of one run of ``example``."""
    return sum(macs_by_layer(model, example).values())


def macs_by_layer(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Multiply-accumulates of one run of ``example`` by layer: convolutions, linear and recurrent
    layers, and the projections of torch's own attention.
    """
    macs: dict[str, int] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, (*LAYERS, *TRANSPOSED, nn.RNNBase, nn.MultiheadAttention)):

            def count(module: nn.Module, inputs: Any, out: Any, name: str = name) -> None:
                macs[name] = macs.get(name, 0) + _macs(module, inputs, out)

            hooks.append(layer.register_forward_hook(count))
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def _macs(layer: nn.Module, inputs: Any, out: Any) -> int:
    matrices = sum(w.numel() for w in layer.parameters(recurse=False) if w.dim() > 1)
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        if not inputs or not torch.is_tensor(inputs[0]):
            return 0  # packed, or passed by keyword
        if isinstance(layer, nn.MultiheadAttention):
            matrices += layer.out_proj.weight.numel()
        return matrices * (inputs[0].numel() // inputs[0].shape[-1])
    # each output sums over a row of the weight; transposed, each input is multiplied by a row
    ends, weight = inputs[0] if isinstance(layer, TRANSPOSED) else out, layer.weight
    assert isinstance(weight, torch.Tensor)
    return int(ends.numel() * weight[0].numel())


@dataclass
class _Costs:
    """The MACs of the model with narrower groups, without building it."""

    model: nn.Module
    example: Inputs
    groups: Sequence[Group]
    macs: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.macs = macs_by_layer(self.model, self.example)
        layers = dict(self.model.named_modules())
        # for each layer: the number of outputs, and of inputs that one output reads
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

    def of(self, widths: Mapping[str, int]) -> float:
        lost = {name: [0.0, 0.0] for name in self.widths}
        for group in self.groups:
            removed = group.count - widths[group.layer]
            for place in group.places:
                if place.layer in lost:
                    repeat = len(place.channels) / group.count
                    lost[place.layer][0 if place.output else 1] += removed * repeat
        macs_left = 0.0
        for name, macs in self.macs.items():
            if name not in self.widths:
                macs_left += macs
                continue
            outs, ins = self.widths[name]
            macs_left += macs * (1 - lost[name][0] / outs) * (1 - lost[name][1] / ins)
        return macs_left


def _widths_left(
    model: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    scores: Importance,
    wanted: Prune,
) -> dict[str, int]:
    if wanted.widths is not None:
        return _given_widths(groups, wanted.widths)
    costs = _Costs(model, example, groups)
    if wanted.spread == "uniform":
        return _uniformly(groups, costs, wanted)
    return _by_worth(groups, scores, costs, wanted)


def _given_widths(groups: Sequence[Group], widths: Mapping[str, int]) -> dict[str, int]:
    """Raises SettingError: there is no such group, or it cannot have this width."""
    known = {group.layer: group for group in groups}
    for layer, width in widths.items():
        group = known.get(layer)
        if group is None:
            raise SettingError(
                f"the plan sets the width of {layer}, which is not the first layer of a group that "
                "can lose channels",
                nearest(layer, known),
            )
        if width > group.count or width % group.unit:
            units = f" in steps of {group.unit}" if group.unit > 1 else ""
            raise SettingError(
                f"the plan sets the width of {layer} to {width}: it can have 1 to {group.count}"
                f"{units}"
            )
    return {layer: widths.get(layer, group.count) for layer, group in known.items()}


def _by_worth(
    groups: Sequence[Group], scores: Importance, costs: _Costs, wanted: Prune
) -> dict[str, int]:
    """The width of each group: remove chunk by chunk, least importance for each MAC first."""
    goal = (1 - (wanted.ratio or 0.0)) * costs.total
    widths = {group.layer: group.count for group in groups}
    ordered = {g.layer: scores[g.layer][least_first(scores[g.layer])] for g in groups}
    now = costs.of(widths)
    while now > goal:
        best: tuple[float, str, int, float] | None = None
        for group in groups:
            width = _narrower(widths[group.layer], group.step(wanted.step), _least(group, wanted))
            if width is None:
                continue
            macs = costs.of({**widths, group.layer: width})
            chunk = ordered[group.layer][group.count - widths[group.layer] : group.count - width]
            worth = float(chunk.sum()) / max(now - macs, 1e-9)
            if best is None or worth < best[0]:
                best = worth, group.layer, width, macs
        if best is None:
            raise _too_much(wanted, 1 - now / costs.total)
        _, layer, width, now = best
        widths[layer] = width
    return widths


def _uniformly(groups: Sequence[Group], costs: _Costs, wanted: Prune) -> dict[str, int]:
    """The width of each group: remove the same share of all, as little as the goal allows."""
    goal = (1 - (wanted.ratio or 0.0)) * costs.total
    widths = {group.layer: group.count for group in groups}
    for percent in range(100, -1, -1):
        widths = {g.layer: _scaled(g, percent / 100, wanted) for g in groups}
        if costs.of(widths) <= goal:
            return widths
    raise _too_much(wanted, 1 - costs.of(widths) / costs.total)


def _least(group: Group, wanted: Prune) -> int:
    """The least width that a group may have."""
    if group.writes(wanted.keep):
        return group.count
    step = group.step(wanted.step)
    return min(group.count, step * max(1, math.ceil((wanted.min_channels or 1) / step)))


def _scaled(group: Group, share: float, wanted: Prune) -> int:
    """The nearest width that suits kernels or consists of whole blocks."""
    step = group.step(wanted.step)
    return min(group.count, max(_least(group, wanted), step * round(group.count * share / step)))


def _narrower(width: int, step: int, least: int) -> int | None:
    """The next smaller multiple of ``step``; None if it is below ``least``."""
    narrower = (width - 1) // step * step
    return narrower if narrower >= max(step, least) else None


def _too_much(wanted: Prune, most: float) -> SettingError:
    return SettingError(
        f"{wanted.ratio or 0.0:.0%} of the MACs cannot be pruned from this model: at most "
        f"{most:.0%}",
        f"every layer keeps at least {max(wanted.step, wanted.min_channels or 0)} channels, and "
        "some layers cannot be pruned or are kept by a constraint",
    )
