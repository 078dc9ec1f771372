"""What was pruned is made good by the weights that stay.

Layer by layer, in the order in which they run: the output that the original has there, from the
inputs that reach it in the smaller model, by least squares. Y. He et al., "Channel Pruning for
Accelerating Very Deep Neural Networks" (2017, arXiv:1707.06168). No labels, and no training.
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
    are_enough,
    can_read,
    columns,
    damped,
    in_order,
    rows,
    some,
    watching,
)
from edgekit.recipe.tensors import Inputs

# Of a layer's largest output: no more than rounding makes.
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
    """Change the weights of the layers in ``smaller`` that compute something else than in
    ``original``, also those that lost nothing: what reaches them has changed. Of them, those that a
    product tells.

    ``lost``: all layers that may be changed, each with the outputs that it has no more.
    ``keep_zeros``: a weight that is zero stays so, and the others of its output take over what it
    carried.
    """
    names = [name for name in lost if can_read(original.get_submodule(name))]
    ordered = in_order(original, names, data[0])
    norms = _norms(smaller, list(ordered), data[0])
    with torch.no_grad():
        for done, (name, runs) in enumerate(ordered.items(), 1):
            count = len(_weight(original.get_submodule(name)))
            kept = sorted(set(range(count)) - set(lost[name]))
            pair = _Pair(name, runs, original, smaller, kept)
            if pair.differs(data[0]):
                _mend(pair, norms.get(name), data, keep_zeros)
            advance(done, len(ordered))


@dataclass(frozen=True)
class _Pair:
    """A layer in both models, which runs so many times; ``kept``: the outputs of the original that
    are still there.
    """

    name: str
    runs: int
    original: nn.Module
    smaller: nn.Module
    kept: list[int]

    def read(self, inputs: Inputs) -> torch.Tensor:
        """In the smaller: (places, K)."""
        return self._at(self.smaller, inputs, lambda layer, read, _: columns(layer, read))

    def wanted(self, inputs: Inputs) -> torch.Tensor:
        """What the original computes at these places: (places, O)."""
        return self._outputs(self.original, inputs)[:, self.kept]

    def differs(self, inputs: Inputs) -> bool:
        now, wanted = self._outputs(self.smaller, inputs), self.wanted(inputs)
        return bool((now - wanted).abs().max() > SAME_TOLERANCE * wanted.abs().max())

    def _outputs(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        return self._at(model, inputs, lambda layer, _, output: rows(layer, output))

    def _at(self, model: nn.Module, inputs: Inputs, look: Look) -> torch.Tensor:
        """Of what it reads and computes, all times that it runs together."""
        found: list[torch.Tensor] = []

        def watch(_name: str, layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
            # what follows may change it in place
            found.append(some(look(layer, read, output)).clone())
            if len(found) == self.runs:
                raise _Reached

        with watching({self.name: model.get_submodule(self.name)}, watch), suppress(_Reached):
            model(*inputs)
        return torch.cat(found)


def _mend(pair: _Pair, norm: Norm | None, data: Sequence[Inputs], keep_zeros: bool) -> None:
    layer = pair.smaller.get_submodule(pair.name)
    weight, bias = _weight(layer), layer.bias
    moments = products = torch.zeros(())
    places = 0
    for inputs in data:
        given = pair.read(inputs).double()
        missing = pair.wanted(inputs).double() - given @ weight.double().flatten(1).T
        if isinstance(bias, torch.Tensor):
            missing -= bias
        if isinstance(bias, torch.Tensor) or norm is not None:
            given = nn.functional.pad(given, (0, 1), value=1.0)
        moments = moments + given.T @ given
        products = products + given.T @ missing
        places += len(given)
    free = weight.flatten(1) != 0 if keep_zeros else torch.ones_like(weight.flatten(1)).bool()
    if not are_enough(places, int(free.sum(1).max())):
        return
    if keep_zeros:
        change = _row_by_row(damped(moments), products, free)
    else:
        change = torch.linalg.solve(damped(moments), products)
    if isinstance(bias, torch.Tensor):
        bias += change[-1]
    elif norm is not None:
        assert norm.running_mean is not None
        norm.running_mean -= change[-1]
    weight += change[: weight[0].numel()].T.reshape(weight.shape)


def _row_by_row(moments: torch.Tensor, products: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """The same where each output (a row of ``free``) may change other weights."""
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


def _norms(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, Norm]:
    """The batch norms right behind these layers, where neither runs more than once and the layer
    has no bias: they subtract a mean, and so can take what a bias would.
    """
    found: list[tuple[str, str]] = []
    computed: dict[str, tuple[torch.Tensor, int]] = {}
    runs: Counter[str] = Counter()
    layers = {name: model.get_submodule(name) for name in names}
    norms = {n: part for n, part in model.named_modules() if isinstance(part, Norm)}

    def watch(name: str, _layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
        runs[name] += 1
        if name in layers:
            computed[name] = output, output._version
            return
        # of another version, something between them has changed it in place
        behind = [n for n, (out, version) in computed.items() if out is read]
        found.extend((n, name) for n in behind if computed[n][1] == read._version)

    with watching(layers | norms, watch), torch.no_grad():
        model(*inputs)
    readers = Counter(layer for layer, _ in found)
    return {
        layer: norms[norm]
        for layer, norm in found
        if runs[layer] == runs[norm] == readers[layer] == 1
        and layers[layer].bias is None
        and norms[norm].running_mean is not None
    }


class _Reached(Exception):  # noqa: N818
    """What comes after it is not needed."""
