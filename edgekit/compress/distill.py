"""Distillation: what a quantized model learns from the float one, on inputs without labels.

G. Hinton et al., "Distilling the Knowledge in a Neural Network" (2015, arXiv:1503.02531). Few
inputs are seen often; so they are mixed pairwise, and the float model tells what is right for the
mixture too (L. Beyer et al., 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from edgekit.compress.divergence import is_classes
from edgekit.compress.simulate import Outputs, joined
from edgekit.compress.train import Batch
from edgekit.recipe import Inputs

BATCH = 16


def distillation_batches(
    data: Sequence[Inputs], teacher: Callable[[Inputs], Outputs], seed: int, epoch: int, size: int
) -> Iterator[Batch]:
    """The data shuffled and mixed, ``size`` of them at once, with the teacher's outputs; an epoch
    is always the same.
    """
    draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(data), generator=draw).tolist()
    for start in range(0, len(order), size):
        chosen = [data[index] for index in order[start : start + size]]
        inputs = _mixed(chosen, draw)
        with torch.no_grad():
            floats = teacher(inputs)
        yield inputs, floats


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
    divided by ``temperature``, else the noise to signal of each output, added up.
    """
    if is_classes(floats):
        wanted, found = (torch.log_softmax(s[0] / temperature, 1) for s in (floats, outputs))
        return (wanted.exp() * (wanted - found)).sum(1).mean()
    total = torch.zeros(())
    for a, b in zip(outputs, floats, strict=True):
        if b.is_floating_point():
            total = total + (a - b).square().mean() / b.square().mean().clamp(min=1e-12)
    return total
