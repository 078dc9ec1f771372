"""The least-squares change of a layer, so that its outputs come near to wanted ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as Norm

from edgekit.compress.moments import has_enough_places, watching, with_damping
from edgekit.recipe.tensors import Inputs

# Relative to a layer's largest output: smaller differences are float rounding.
SAME_TOLERANCE = 1e-5


def missing(layer: nn.Module, read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What the layer's outputs for ``read`` (places, K) lack to ``wanted`` (places, O)."""
    lack = wanted.double() - read.double() @ weight_of(layer).double().flatten(1).T
    return lack - layer.bias if isinstance(layer.bias, torch.Tensor) else lack


class Equations:
    """The normal equations of a layer's change. The layer's bias may change as well; if it has
    none, the running mean of the batch norm behind it.
    """

    def __init__(self, layer: nn.Module, norm: Norm | None) -> None:
        self.weight, self.norm = weight_of(layer), norm
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


def weight_of(layer: nn.Module) -> torch.Tensor:
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
