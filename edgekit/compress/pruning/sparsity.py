"""Unstructured pruning: the weights of least importance become zeros.

No runtime that edgekit packages for computes less because of zeros; they only make the file
compress better. The other weights can be refitted (compensate.py), and training keeps the zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from edgekit.compress.pruning.channel_groups import LAYERS
from edgekit.errors import RuntimeFailure
from edgekit.plan import Threshold


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of convolutions and linear layers by layer name; a shared one only once."""
    by_pointer: dict[int, tuple[str, torch.Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LAYERS) and isinstance(layer.weight, nn.Parameter):
            by_pointer.setdefault(layer.weight.data_ptr(), (name, layer.weight.detach()))
    return dict(by_pointer.values())


def zeros_of(model: nn.Module) -> float:
    """The share of these weights that is zero."""
    weights = weights_of(model).values()
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def sparsify(weights: Mapping[str, torch.Tensor], ratio: float, threshold: Threshold) -> None:
    """Set this share of all weights to zero, in place; existing zeros count.

    Raises RuntimeFailure: there are no weights.
    """
    if not weights:
        raise RuntimeFailure(
            "no weight of this model can become zero: it has no convolution or linear layer with "
            "a weight of its own (recurrent layers are not pruned)"
        )
    scores = [_score(weight.abs(), threshold) for weight in weights.values()]
    if threshold == "per_layer":
        masks = [_least(score, ratio) for score in scores]
    else:
        sizes = [score.numel() for score in scores]
        masks = list(torch.split(_least(torch.cat(scores), ratio), sizes))
    for weight, mask in zip(weights.values(), masks, strict=True):
        weight.masked_fill_(mask.view(weight.shape), 0)


def _least(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """A mask that is true for this share of the scores, the least ones."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[torch.argsort(scores, stable=True)[: round(ratio * len(scores))]] = True
    return mask


def _score(sizes: torch.Tensor, threshold: Threshold) -> torch.Tensor:
    """The scores that are compared across layers, (weights,). ``lamp``: a weight's square divided
    by the sum over all weights of its layer that are not smaller (J. Lee et al., 2021,
    arXiv:2010.07611).
    """
    flat = sizes.flatten().double()
    if threshold != "lamp":
        return flat
    squares, order = flat.square().sort(stable=True)
    not_smaller = squares.flip(0).cumsum(0).flip(0).clamp(min=1e-300)
    return torch.empty_like(flat).scatter_(0, order, squares / not_smaller)


def zero_resetter(weights: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    """A function to call after each training step: it resets the current zeros to zero."""
    masks = {name: weight.detach() != 0 for name, weight in weights.items()}

    def reset() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)

    return reset
