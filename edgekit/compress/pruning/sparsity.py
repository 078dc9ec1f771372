"""Pruning connection by connection: the weights of least importance become zeros.

No runtime that edgekit packages for computes less because of zeros; a file with many of them
packs smaller. Those that stay can take over what went (compensate.py), and training keeps the
zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from edgekit.compress.pruning.channels import LAYERS
from edgekit.errors import RuntimeFailure
from edgekit.plan import Threshold


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that may become zeros, by layer: of convolutions and linear layers, each once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS) and isinstance(layer.weight, nn.Parameter):
            found.setdefault(layer.weight.data_ptr(), (name, layer.weight.detach()))
    return dict(found.values())


def zeros_of(model: nn.Module) -> float:
    """The share of these weights that is zero."""
    weights = weights_of(model).values()
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def sparsify(weights: Mapping[str, torch.Tensor], ratio: float, threshold: Threshold) -> None:
    """In place: this share of all weights becomes zero; those that were zero are among them.

    Raises RuntimeFailure: there are none.
    """
    if not weights:
        raise RuntimeFailure(
            "no weight of this model can become zero: it has no convolution or linear layer with "
            "a weight of its own (recurrent layers stay as they are)"
        )
    scores = [_score(weight.abs(), threshold) for weight in weights.values()]
    if threshold == "per_layer":
        gone = [_least(score, ratio) for score in scores]
    else:
        sizes = [score.numel() for score in scores]
        gone = list(torch.split(_least(torch.cat(scores), ratio), sizes))
    for weight, own in zip(weights.values(), gone, strict=True):
        weight.masked_fill_(own.view(weight.shape), 0)


def _least(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """True for this share of them."""
    found = torch.zeros(len(scores), dtype=torch.bool)
    found[torch.argsort(scores, stable=True)[: round(ratio * len(scores))]] = True
    return found


def _score(sizes: torch.Tensor, threshold: Threshold) -> torch.Tensor:
    """What is compared over all layers, (weights,). ``lamp``: a weight's square to that of all
    that are not smaller in its layer (J. Lee et al., 2021, arXiv:2010.07611).
    """
    flat = sizes.flatten().double()
    if threshold != "lamp":
        return flat
    squares, order = flat.square().sort(stable=True)
    not_smaller = squares.flip(0).cumsum(0).flip(0).clamp(min=1e-300)
    return torch.empty_like(flat).scatter_(0, order, squares / not_smaller)


def keeping_zeros(weights: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    """What to do after each step of training: what is zero now is zero again."""
    masks = {name: weight.detach() != 0 for name, weight in weights.items()}

    def again() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)

    return again
