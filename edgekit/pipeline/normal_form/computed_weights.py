"""Weights that a model computes in every inference, folded into plain ones.

weight_norm, spectral_norm, orthogonal, a user's own parametrization and torch's pruning compute a
weight from others. After training the result is constant. Unfolded, a device would compute it in
every inference, and no quantizer would recognize it as a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Removal = Callable[[nn.Module, str], object]
# Older forms compute a weight in a forward pre-hook; these functions remove it.
HOOKS: dict[type, Removal] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


def computes_weights(model: nn.Module) -> bool:
    return any(parametrize.is_parametrized(m) or any(_hooks(m)) for m in model.modules())


def fold_weights(model: nn.Module) -> None:
    """Make every computed weight a plain one of the same name, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _fold_parametrizations(module)
        for name, remove in list(_hooks(module)):
            remove(module, name)


def _fold_parametrizations(module: nn.Module) -> None:
    """Like remove_parametrizations, but without changing the class that copies share."""
    lists = dict(module.parametrizations.items())  # type: ignore[operator, union-attr]
    with torch.no_grad():
        values = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        trained = [p.requires_grad for p in lists[name].parameters(recurse=False)]
        if trained:
            module.register_parameter(name, nn.Parameter(value, any(trained)))
        else:
            module.register_buffer(name, value)


def _hooks(module: nn.Module) -> Iterator[tuple[str, Removal]]:
    """The weight's name and the removal function for each hook that computes a weight."""
    for hook in module._forward_pre_hooks.values():
        for kind, remove in HOOKS.items():
            if isinstance(hook, kind):
                yield getattr(hook, "name", None) or hook._tensor_name, remove  # type: ignore[attr-defined]
