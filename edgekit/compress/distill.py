"""Distillation: what a smaller or a quantized model learns from the float one, without labels.

G. Hinton et al., "Distilling the Knowledge in a Neural Network" (2015, arXiv:1503.02531). Few
inputs are seen often; so they are mixed pairwise, and the float model tells what is right for the
mixture too (L. Beyer et al., 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgekit.compress.batches import joined
from edgekit.compress.divergence import is_classes
from edgekit.compress.moments import watching
from edgekit.compress.simulate import Outputs
from edgekit.compress.train import Batch
from edgekit.recipe import Inputs

BATCH = 16


def distillation_batches(
    data: Sequence[Inputs], seed: int, epoch: int, size: int
) -> Iterator[Batch]:
    """The data shuffled and mixed, ``size`` of them at once, without a target: the teacher is to
    be asked. An epoch is always the same.
    """
    draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(data), generator=draw).tolist()
    for start in range(0, len(order), size):
        if start and start == len(order) - 1:
            return  # batch norms know no spread of one
        chosen = [data[index] for index in order[start : start + size]]
        yield _mixed(chosen, draw), None


def _mixed(chosen: Sequence[Inputs], draw: torch.Generator) -> Inputs:
    """Each input with the next one, by a share that is uniformly drawn; integers are as they are,
    and with them all that belongs to them.
    """
    if len(chosen) < 2:
        return chosen[0]
    if not all(tensor.is_floating_point() for tensor in chosen[0]):
        return joined(chosen)
    shares = torch.rand(len(chosen), generator=draw).tolist()
    pairs = zip(chosen, [*chosen[1:], chosen[0]], shares, strict=True)
    return joined(
        [
            tuple(a.lerp(b, share) for a, b in zip(one, other, strict=True))
            for one, other, share in pairs
        ]
    )


def distance(outputs: Outputs, floats: Outputs, temperature: float = 1.0) -> torch.Tensor:
    """What is made smaller: the Kullback-Leibler divergence of classes (nats) whose scores are
    divided by ``temperature`` (times its square, as gradients fall by that), else the noise to
    signal of each output, added up.
    """
    if is_classes(floats):
        wanted, found = (torch.log_softmax(s[0] / temperature, 1) for s in (floats, outputs))
        return temperature**2 * (wanted.exp() * (wanted - found)).sum(1).mean()
    total = torch.zeros(())
    for a, b in zip(outputs, floats, strict=True):
        if b.is_floating_point():
            total = total + (a - b).square().mean() / b.square().mean().clamp(min=1e-12)
    return total


def attention_pairs(model: nn.Module, teacher: nn.Module, example: Inputs) -> list[tuple[str, str]]:
    """Layers of the model and of the teacher whose outputs are images of the same size, the last
    of each size: where their attention can be compared, whatever the channels.
    """
    own, theirs = _last_of_each_size(model, example), _last_of_each_size(teacher, example)
    return [(own[size], theirs[size]) for size in own if size in theirs]


def _last_of_each_size(model: nn.Module, example: Inputs) -> dict[tuple[int, ...], str]:
    found: dict[tuple[int, ...], str] = {}

    def watch(name: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.dim() == 4 and output[0, 0].numel() > 1:
            found[tuple(output.shape[2:])] = name

    leaves = {name: part for name, part in model.named_modules() if not list(part.children())}
    with watching(leaves, watch), torch.no_grad():
        model(*example)
    return found


@contextmanager
def attention_maps(
    model: nn.Module, layers: Sequence[str]
) -> Iterator[Callable[[], list[torch.Tensor]]]:
    """Where these layers look: the sum of the squares over the channels, of length one, (N, H * W)
    each (S. Zagoruyko and N. Komodakis, 2017, arXiv:1612.03928). To be called after one run.
    """
    found: dict[str, torch.Tensor] = {}

    def watch(name: str, _layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        # what follows may add to it in place
        found[name] = nn.functional.normalize(output.clone().square().mean(1).flatten(1))

    with watching({name: model.get_submodule(name) for name in layers}, watch):
        yield lambda: [found[name] for name in layers]


def attention_distance(
    maps: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Squared distances of the maps, the mean over the batch, added up."""
    total = torch.zeros(())
    for a, b in zip(maps, wanted, strict=True):
        total = total + (a - b).square().sum(1).mean()
    return total
