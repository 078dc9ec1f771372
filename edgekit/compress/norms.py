"""Batch norms with the statistics of other inputs than those of their training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.recipe.tensors import Inputs


def has_norms(model: nn.Module) -> bool:
    return bool(_norms(model))


def estimate_norms(model: nn.Module, batches: Iterable[Inputs]) -> None:
    """Replace the running statistics of all batch norms, in place, by the mean of the batches'.

    With images of another size the values inside a network have other statistics (H. Touvron et
    al., "Fixing the train-test resolution discrepancy", 2019, arXiv:1906.06423).
    """
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    try:
        with torch.no_grad():
            for inputs in batches:
                model(*inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
