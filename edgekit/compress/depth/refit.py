"""Compensation after removing blocks, in one run: fast enough to try each block.

As in pruning/compensate.py, layers are refitted by least squares in the order in which they run:
their outputs should be those of the original model. Here each is refitted just before it computes,
so one run of one batch is enough for all of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from edgekit.compress.moments import (
    can_read,
    columns,
    rows,
    run_counts,
    spread_places,
    watching,
)
from edgekit.compress.pruning.channel_groups import with_own_weights
from edgekit.compress.pruning.compensate import SAME_TOLERANCE, Equations, missing, norms_behind
from edgekit.recipe.tensors import Inputs

# At most about so many places of a layer are fitted; it needs so many for each of its columns.
# With fewer, blocks of MobileNetV2 lost more after the refit than before: the places of an image
# are alike.
PLACES = 10240
PLACES_PER_COLUMN = 12


class Refit:
    """The goals of all layers: the outputs of ``original`` for ``batch``. Only layers are refitted
    that run once, have weights of their own, and that ``moments.can_read`` accepts.
    """

    def __init__(self, original: nn.Module, example: Inputs, batch: Inputs) -> None:
        layers = {name: original.get_submodule(name) for name in with_own_weights(original)}
        readable = [name for name, layer in layers.items() if can_read(layer)]
        runs = run_counts(original, readable, example)
        names = {part: name for name, part in original.named_modules()}
        norms = norms_behind(original, list(runs), example)
        self.norms = {layer: names[norm] for layer, norm in norms.items()}
        self.batch = batch
        self.wanted: dict[str, torch.Tensor] = {}

        def watch(name: str, layer: nn.Module, _read: torch.Tensor, output: torch.Tensor) -> None:
            # later operators may change it in place
            self.wanted[name] = spread_places(rows(layer, output), PLACES).clone()

        once = {name: layers[name] for name, count in runs.items() if count == 1}
        with watching(once, watch), torch.no_grad():
            original(*batch)

    def apply(self, smaller: nn.Module) -> None:
        """Refit, in place, the layers of ``smaller`` whose outputs differ from the original's. It
        may lack some layers; the others have the original's names and shapes.
        """
        parts = dict(smaller.named_modules())

        def refit(name: str, layer: nn.Module, inputs: Any) -> None:
            read = spread_places(columns(layer, inputs[0]), PLACES)
            if len(read) < PLACES_PER_COLUMN * read.shape[1]:
                return
            lack = missing(layer, read, self.wanted[name])
            if lack.abs().max() > SAME_TOLERANCE * self.wanted[name].abs().max():
                equations = Equations(layer, parts.get(self.norms.get(name, "")))
                equations.add(read, lack)
                equations.solve()

        handles = [
            parts[name].register_forward_pre_hook(partial(refit, name))
            for name in self.wanted
            if name in parts
        ]
        try:
            with torch.no_grad():
                smaller(*self.batch)
        finally:
            for handle in handles:
                handle.remove()
