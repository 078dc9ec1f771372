"""What was pruned is made good by the weights that stay.

Layer by layer, in the order in which they run: the output that the original has there, from the
inputs that reach it in the smaller model, by least squares. Y. He et al., "Channel Pruning for
Accelerating Very Deep Neural Networks" (2017, arXiv:1707.06168). No labels, and no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import nn

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
from edgekit.recipe import Inputs


def compensate(
    original: nn.Module,
    smaller: nn.Module,
    readers: Mapping[str, Sequence[int]],
    data: Sequence[Inputs],
    advance: Callable[[int, int], None],
    keep_zeros: bool = False,
) -> None:
    """Change the weights of ``readers`` in ``smaller``, those of them that a product tells.

    Each reader comes with the outputs that it lost itself. ``keep_zeros``: a weight that is zero
    stays so, and the others of its output take over what it carried.
    """
    names = [name for name in readers if can_read(original.get_submodule(name))]
    ordered = in_order(original, names, data[0])
    with torch.no_grad():
        for done, name in enumerate(ordered, 1):
            _mend(original, smaller, name, readers[name], data, keep_zeros)
            advance(done, len(ordered))


def _mend(
    original: nn.Module,
    smaller: nn.Module,
    name: str,
    lost: Sequence[int],
    data: Sequence[Inputs],
    keep_zeros: bool,
) -> None:
    layer, count = smaller.get_submodule(name), len(_weight(original.get_submodule(name)))
    weight, bias = _weight(layer), layer.bias
    outputs = sorted(set(range(count)) - set(lost))
    moments = products = torch.zeros(())
    places = 0
    for inputs in data:
        read, _ = _at(smaller, name, inputs)
        _, wanted = _at(original, name, inputs)
        given = some(columns(layer, read)).double()
        missing = some(rows(layer, wanted))[:, outputs].double()
        missing -= given @ weight.double().flatten(1).T
        if isinstance(bias, torch.Tensor):
            missing -= bias
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
        change = change[:-1]
    weight += change.T.reshape(weight.shape)


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


class _Reached(Exception):  # noqa: N818
    """What comes after it is not needed."""


def _at(model: nn.Module, name: str, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer reads and computes, the first time that it runs."""
    found: list[torch.Tensor] = []

    def watch(_name: str, _layer: nn.Module, read: torch.Tensor, output: torch.Tensor) -> None:
        found.extend((read, output))
        raise _Reached

    with watching({name: model.get_submodule(name)}, watch), suppress(_Reached):
        model(*inputs)
    return found[0], found[1]
