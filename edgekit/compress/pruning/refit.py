"""Compensation after something was removed, in one run: fast enough to try many candidates.

Layers are refitted by least squares in the order in which they run: their outputs should be those
of the original model (compensate.py names the source). Each is refitted just before it
computes, so one run of one batch is enough for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from edgekit.compress.moments import (
    PLACES_PER_COLUMN,
    can_read,
    run_counts,
    spread_columns,
    spread_rows,
    watching,
)
from edgekit.compress.pruning.least_squares import SAME_TOLERANCE, Equations, missing, norms_behind
from edgekit.recipe.tensors import Inputs

# At most about so many places of a layer are fitted.
PLACES = 10240

Advance = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Reports no progress."""


class Refit:
    """The goals of all layers: the outputs of ``original`` for ``batch``. Of ``names``, only layers
    are refitted that run once and that ``moments.can_read`` accepts.

    ``places_per_column``: a layer with fewer places is left as it is.
    """

    def __init__(
        self,
        original: nn.Module,
        names: Iterable[str],
        example: Inputs,
        batch: Inputs,
        places_per_column: int = PLACES_PER_COLUMN,
    ) -> None:
        layers = {name: original.get_submodule(name) for name in names}
        readable = [name for name, layer in layers.items() if can_read(layer)]
        runs = run_counts(original, readable, example)
        self.batch, self.places_per_column = batch, places_per_column
        self.wanted: dict[str, torch.Tensor] = {}

        def watch(name: str, layer: nn.Module, _read: torch.Tensor, output: torch.Tensor) -> None:
            # later operators may change it in place
            self.wanted[name] = spread_rows(layer, output, PLACES).clone()

        once = {name: layers[name] for name, count in runs.items() if count == 1}
        with watching(once, watch), torch.no_grad():
            original(*batch)

    def apply(
        self,
        smaller: nn.Module,
        example: Inputs,
        remaining: Mapping[str, Sequence[int]] | None = None,
        keep_zeros: bool = False,
        advance: Advance = silent,
    ) -> None:
        """Refit, in place, the layers of ``smaller`` whose outputs differ from the original's. It
        may lack some layers.

        ``remaining``: of layers that lost outputs, those of the original that they still have.
        ``keep_zeros``: zero weights stay zero.
        """
        parts = dict(smaller.named_modules())
        names = [name for name in self.wanted if name in parts]
        norms = norms_behind(smaller, names, example)
        done: list[str] = []

        def refit(name: str, layer: nn.Module, inputs: Any) -> None:
            done.append(name)
            advance(len(done), len(names))
            read = spread_columns(layer, inputs[0], PLACES)
            if len(read) < self.places_per_column * read.shape[1]:
                return
            wanted = self.wanted[name]
            if remaining is not None and name in remaining:
                wanted = wanted[:, list(remaining[name])]
            lack = missing(layer, read, wanted)
            if lack.abs().max() > SAME_TOLERANCE * wanted.abs().max():
                equations = Equations(layer, norms.get(name))
                equations.add(read, lack)
                equations.solve(keep_zeros)

        handles = [parts[name].register_forward_pre_hook(partial(refit, name)) for name in names]
        try:
            with torch.no_grad():
                smaller(*self.batch)
        finally:
            for handle in handles:
                handle.remove()
