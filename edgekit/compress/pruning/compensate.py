"""Compensation after pruning: refit the remaining weights by least squares.

Layers are refitted in the order in which they run. The goal is the layer's output in the original
model; the inputs are those in the smaller model. Y. He et al., "Channel Pruning for Accelerating
Very Deep Neural Networks" (2017, arXiv:1707.06168). It needs neither labels nor training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as Norm

from edgekit.compress.moments import (
    can_read,
    columns,
    has_enough_places,
    rows,
    run_counts,
    spread_places,
    watching,
    with_damping,
)
from edgekit.recipe.tensors import Inputs

# Relative to a layer's largest output: smaller differences are float rounding.
SAME_TOLERANCE = 1e-5
Look = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def compensate(
    original: nn.Module,
    smaller: nn.Module,
    lost: Mapping[str, Sequence[int]],
    data: Sequence[Inputs],
    advance: Callable[[int, int], None],
    keep_zeros: bool = False,
) -> None:
    """Refit the layers of ``smaller`` whose outputs differ from those in ``original``: also layers
    that lost nothing, because their inputs have changed. Layers that ``moments.can_read`` rejects
    are not refitted.

    ``lost``: all layers that may be changed, each with its removed outputs. ``keep_zeros``: zero
    weights stay zero, and the other weights of the output compensate for them.
    """
    names = [name for name in lost if can_read(original.get_submodule(name))]
    ordered = run_counts(original, names, data[0])
    norms = norms_behind(smaller, list(ordered), data[0])
    with torch.no_grad():
        for done, (name, runs) in enumerate(ordered.items(), 1):
            count = len(_weight(original.get_submodule(name)))
            remaining = sorted(set(range(count)) - set(lost[name]))
            pair = _Pair(name, runs, original, smaller, remaining)
            if pair.differs(data[0]):
                _refit(pair, norms.get(name), data, keep_zeros)
            advance(done, len(ordered))


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


def missing(layer: nn.Module, read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What the layer's outputs for ``read`` (places, K) lack to ``wanted`` (places, O)."""
    lack = wanted.double() - read.double() @ _weight(layer).double().flatten(1).T
    return lack - layer.bias if isinstance(layer.bias, torch.Tensor) else lack


class Equations:
    """The normal equations of a layer's change. The layer's bias may change as well; if it has
    none, the running mean of the batch norm behind it.
    """

    def __init__(self, layer: nn.Module, norm: Norm | None) -> None:
        self.weight, self.norm = _weight(layer), norm
        self.bias = layer.bias if isinstance(layer.bias, torch.Tensor) else None
        self.moments = self.products = torch.zeros(())
        self.places = 0

    def add(self, read: torch.Tensor, missing: torch.Tensor) -> None:
        """``read``: inputs (places, K); ``missing``: what the outputs lack (places, O)."""
        read = read.double()
        if self.bias is not None or self.norm is not None:
            read = nn.functional.pad(read, (0, 1), value=1.0)
        self.moments = self.moments + read.T @ read
        self.products = self.products + read.T @ missing
        self.places += len(read)

    def solve(self, keep_zeros: bool = False) -> None:
        """Change the layer, unless there are too few places."""
        weight = self.weight
        free = weight.flatten(1) != 0 if keep_zeros else torch.ones_like(weight.flatten(1)).bool()
        if not has_enough_places(self.places, int(free.sum(1).max())):
            return
        if keep_zeros:
            change = _row_by_row(with_damping(self.moments), self.products, free)
        else:
            change = torch.linalg.solve(with_damping(self.moments), self.products)
        if self.bias is not None:
            self.bias += change[-1]
        elif self.norm is not None:
            assert self.norm.running_mean is not None
            self.norm.running_mean -= change[-1]
        weight += change[: weight[0].numel()].T.reshape(weight.shape)


def _row_by_row(moments: torch.Tensor, products: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Solve for each output alone; ``free`` has a row of changeable weights for each."""
    change = torch.zeros_like(products)
    always = torch.ones(len(moments) - free.shape[1], dtype=torch.bool)
    for index, own in enumerate(free):
        chosen = torch.cat([own, always]).nonzero()[:, 0]
        if len(chosen):
            part = moments[chosen][:, chosen]
            change[chosen, index] = torch.linalg.solve(part, products[chosen, index])
    return change


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def norms_behind(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, Norm]:
    """The batch norms directly behind these layers, if both run once and the layer has no bias.
    Their running mean can absorb a bias.
    """
    pairs: list[tuple[str, str]] = []
    computed: dict[str, tuple[torch.Tensor, int]] = {}
    runs: Counter[str] = Counter()
    layers = {name: model.get_submodule(name) for name in names}
    norms = {n: part for n, part in model.named_modules() if isinstance(part, Norm)}

    def watch(name: str, _layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
        runs[name] += 1
        if name in layers:
            computed[name] = output, output._version
            return
        # another version means that an operator between them changed it in place
        behind = [n for n, (out, version) in computed.items() if out is read]
        pairs.extend((n, name) for n in behind if computed[n][1] == read._version)

    with watching(layers | norms, watch), torch.no_grad():
        model(*inputs)
    readers = Counter(layer for layer, _ in pairs)
    return {
        layer: norms[norm]
        for layer, norm in pairs
        if runs[layer] == runs[norm] == readers[layer] == 1
        and layers[layer].bias is None
        and norms[norm].running_mean is not None
    }


class _Reached(Exception):  # noqa: N818
    """Ends a run early: the layer has computed all its outputs."""
