"""Compensation after pruning: refit the remaining weights by least squares.

Layers are refitted in the order in which they run. The goal is the layer's output in the original
model; the inputs are those in the smaller model. Y. He et al., "Channel Pruning for Accelerating
Very Deep Neural Networks" (2017, arXiv:1707.06168). It needs neither labels nor training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as Norm

from edgekit.compress.batches import can_batch, concatenate
from edgekit.compress.moments import can_read, columns, rows, run_counts, spread_places, watching
from edgekit.compress.pruning.channel_groups import outputs_of
from edgekit.compress.pruning.least_squares import (
    SAME_TOLERANCE,
    Equations,
    missing,
    norms_behind,
    weight_of,
)
from edgekit.compress.pruning.refit import Advance, Refit, silent
from edgekit.recipe.tensors import Inputs

Look = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def compensate(
    original: nn.Module,
    smaller: nn.Module,
    lost: Mapping[str, Sequence[int]],
    example: Inputs,
    data: Sequence[Inputs],
    advance: Advance = silent,
    keep_zeros: bool = False,
) -> None:
    """Refit the layers of ``smaller`` whose outputs differ from those in ``original``: also layers
    that lost nothing, because their inputs have changed. Layers that ``moments.can_read`` rejects
    are not refitted. Layers that run several times, and all layers of a model that cannot compute
    a batch at once, are refitted one after another.

    ``lost``: all layers that may be changed, each with its removed outputs. ``example``: one input
    of both models. ``data``: inputs, or batches of them, to fit. ``keep_zeros``: zero
    weights stay zero, and the other weights of the output compensate for them.
    """
    remaining = {name: _remaining(original, name, indices) for name, indices in lost.items()}
    names = [name for name in lost if can_read(original.get_submodule(name))]
    runs = run_counts(original, names, example)
    if len(data) == 1 or can_batch(partial(outputs_of, original), data):
        refit = Refit(original, names, example, concatenate(data))
        refit.apply(smaller, example, remaining, keep_zeros, advance)
        runs = {name: count for name, count in runs.items() if count > 1}
    norms = norms_behind(smaller, list(runs), example)
    with torch.no_grad():
        for done, (name, count) in enumerate(runs.items(), 1):
            pair = _Pair(name, count, original, smaller, remaining[name])
            if pair.differs(example):
                _refit(pair, norms.get(name), data, keep_zeros)
            advance(done, len(runs))


def _remaining(original: nn.Module, name: str, lost: Sequence[int]) -> list[int]:
    return sorted(set(range(len(weight_of(original.get_submodule(name))))) - set(lost))


@dataclass(frozen=True)
class _Pair:
    """A layer in both models. ``runs``: how often it runs for one input. ``remaining``: the outputs
    of the original that it still has.
    """

    name: str
    runs: int
    original: nn.Module
    smaller: nn.Module
    remaining: list[int]

    def inputs(self, inputs: Inputs) -> torch.Tensor:
        """The layer's inputs in the smaller model: (places, K)."""
        return self._at(self.smaller, inputs, lambda layer, read, _: columns(layer, read))

    def wanted(self, inputs: Inputs) -> torch.Tensor:
        """The original's outputs at the same places: (places, O)."""
        return self._outputs(self.original, inputs)[:, self.remaining]

    def differs(self, inputs: Inputs) -> bool:
        actual, wanted = self._outputs(self.smaller, inputs), self.wanted(inputs)
        return bool((actual - wanted).abs().max() > SAME_TOLERANCE * wanted.abs().max())

    def _outputs(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        return self._at(model, inputs, lambda layer, _, output: rows(layer, output))

    def _at(self, model: nn.Module, inputs: Inputs, look: Look) -> torch.Tensor:
        """``look`` at the layer's inputs and outputs, concatenated over all its runs."""
        parts: list[torch.Tensor] = []

        def watch(_name: str, layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
            # later operators may change it in place
            parts.append(spread_places(look(layer, read, output)).clone())
            if len(parts) == self.runs:
                raise _Reached

        with watching({self.name: model.get_submodule(self.name)}, watch), suppress(_Reached):
            model(*inputs)
        return torch.cat(parts)


def _refit(pair: _Pair, norm: Norm | None, data: Sequence[Inputs], keep_zeros: bool) -> None:
    layer = pair.smaller.get_submodule(pair.name)
    equations = Equations(layer, norm)
    for inputs in data:
        read = pair.inputs(inputs).double()
        equations.add(read, missing(layer, read, pair.wanted(inputs)))
    equations.solve(keep_zeros)


class _Reached(Exception):  # noqa: N818
    """Ends a run early: the layer has computed all its outputs."""
