"""Distillation: a smaller or quantized model learns from the float model, without labels.

G. Hinton et al., "Distilling the Knowledge in a Neural Network" (2015, arXiv:1503.02531). Few
inputs are seen often, so they are mixed pairwise; the float model gives the targets of the mixtures
(L. Beyer et al., 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgekit.compress.batches import concatenate
from edgekit.compress.moments import watching
from edgekit.compress.pruning.channel_groups import LAYERS
from edgekit.compress.quantization.simulate import Outputs
from edgekit.compress.training.loop import Batch
from edgekit.recipe.tensors import Inputs

BATCH = 16
TINY = 1e-12
# Relative to the largest signal of a model's parts. A smaller signal holds no information, and
# the noise would be divided by it.
DEAD = 1e-6


def distillation_batches(
    data: Sequence[Inputs], seed: int, epoch: int, size: int
) -> Iterator[Batch]:
    """The data, shuffled and mixed, in batches of ``size`` without targets; the teacher gives
    those. The same seed and epoch give the same batches.
    """
    draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(data), generator=draw).tolist()
    for start in range(0, len(order), size):
        if start and start == len(order) - 1:
            return  # a batch norm has no variance of one input
        chosen = [data[index] for index in order[start : start + size]]
        yield _mixed(chosen, draw), None


def _mixed(chosen: Sequence[Inputs], draw: torch.Generator) -> Inputs:
    """Mix each input with the next one by a uniformly drawn share. Inputs with an integer tensor
    are not mixed.
    """
    if len(chosen) < 2:
        return chosen[0]
    if not all(tensor.is_floating_point() for tensor in chosen[0]):
        return concatenate(chosen)
    shares = torch.rand(len(chosen), generator=draw).tolist()
    pairs = zip(chosen, [*chosen[1:], chosen[0]], shares, strict=True)
    return concatenate(
        [
            tuple(a.lerp(b, share) for a, b in zip(one, other, strict=True))
            for one, other, share in pairs
        ]
    )


def distance(
    outputs: Outputs, floats: Outputs, by_classes: bool, temperature: float = 1.0
) -> torch.Tensor:
    """The loss that training minimizes. ``by_classes``, for one output of shape (N, classes): the
    Kullback-Leibler divergence (nats) of scores divided by ``temperature``, times its square, by
    which gradients shrink. Otherwise the sum of each output's noise-to-signal ratio.
    """
    if by_classes:
        target, actual = (torch.log_softmax(s[0] / temperature, 1) for s in (floats, outputs))
        return temperature**2 * (target.exp() * (target - actual)).sum(1).mean()
    total = torch.zeros(())
    for a, b in zip(outputs, floats, strict=True):
        if b.is_floating_point():
            total = total + relative_noise(a, b)
    return total


@dataclass(frozen=True)
class Features:
    """Pairs of layers of the model (``own``) and the teacher (``theirs``) to compare. ``seen``:
    what is compared of an output; ``distance``: how.
    """

    own: tuple[str, ...]
    theirs: tuple[str, ...]
    seen: Callable[[torch.Tensor], torch.Tensor]
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @contextmanager
    def watched(self, model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Collect the features of these layers in one run; layers that do not run are absent."""
        features: dict[str, torch.Tensor] = {}

        def watch(name: str, _layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            # later operators may change it in place
            features[name] = self.seen(output.clone())

        with watching({name: model.get_submodule(name) for name in layers}, watch):
            yield features

    def between(
        self, own: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor | None:
        """The mean distance of layers that ran in both; training may skip layers at random."""
        pairs = zip(self.own, self.theirs, strict=True)
        both = [(own[a], theirs[b]) for a, b in pairs if a in own and b in theirs]
        return torch.stack([self.distance(a, b) for a, b in both]).mean() if both else None


def hints(model: nn.Module, original: nn.Module, example: Inputs) -> Features | None:
    """Features for a model and the original that it was pruned from, compared value by value (hints
    without a regressor: A. Romero et al., 2015, arXiv:1412.6550): the blocks whose outputs have the
    same shape, else such layers, and the last of these to run. None if there are none.
    """
    own, theirs = _outputs(model, example), _outputs(original, example)
    least = _least_signal(theirs)
    parts = {name: model.get_submodule(name) for name in own}
    same = [
        name
        for name, (shape, _) in own.items()
        if name in theirs and shape == theirs[name][0] and theirs[name][1] > least
    ]
    blocks = [name for name in same if list(parts[name].children())]
    layers = [name for name in same if isinstance(parts[name], LAYERS)]
    last = [name for name in same if name in (*blocks, *layers)][-1:]
    compared = tuple(dict.fromkeys((*(blocks or layers), *last)))
    return Features(compared, compared, lambda output: output, relative_noise) if compared else None


def pooled_hints(
    model: nn.Module, original: nn.Module, example: Inputs, original_example: Inputs
) -> Features | None:
    """Features for a model with smaller images (``example``) than the original's: the last output
    (N, C, H, W) that both have, as means over its places. None if there is none.

    Comparing more layers, places, or the model's outputs was worse (docs/benchmarks.md).
    """
    own, theirs = _outputs(model, example), _outputs(original, original_example)
    least = _least_signal(theirs)
    maps = [
        name
        for name, (shape, _) in own.items()
        if len(shape) == 4
        and name in theirs
        and shape[:2] == theirs[name][0][:2]
        and theirs[name][1] > least
    ]
    if not maps:
        return None
    return Features((maps[-1],), (maps[-1],), lambda maps: maps.mean((2, 3)), relative_noise)


def _least_signal(outputs: Mapping[str, tuple[torch.Size, float]]) -> float:
    return DEAD * max((signal for _, signal in outputs.values()), default=0.0)


def _outputs(model: nn.Module, example: Inputs) -> dict[str, tuple[torch.Size, float]]:
    """Shape and signal of each module's output; one that several modules return counts once."""
    outputs: dict[str, torch.Tensor] = {}
    signals: dict[str, float] = {}

    def watch(name: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if not (torch.is_tensor(output) and output.is_floating_point() and output.numel() > 1):
            return
        for inner in [one for one, tensor in outputs.items() if tensor is output]:
            if inner.startswith(f"{name}."):
                del outputs[inner]
        outputs[name], signals[name] = output, float(output.square().mean())

    parts = {name: part for name, part in model.named_modules() if name}
    with watching(parts, watch), torch.no_grad():
        model(*example)
    return {name: (output.shape, signals[name]) for name, output in outputs.items()}


def relative_noise(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (own - theirs).square().mean() / theirs.square().mean().clamp(min=TINY)


def attention(
    model: nn.Module, teacher: nn.Module, example: Inputs, teacher_example: Inputs
) -> Features | None:
    """Features for a model and a teacher with other channels: attention maps, the normalized sum of
    squares over channels (S. Zagoruyko and N. Komodakis, 2017, arXiv:1612.03928). They are compared
    for the last layer of each image size; None if no size is in both.
    """
    own = _last_of_each_size(model, example)
    theirs = _last_of_each_size(teacher, teacher_example)
    sizes = [size for size in own if size in theirs]
    if not sizes:
        return None
    pairs = tuple(own[size] for size in sizes), tuple(theirs[size] for size in sizes)
    return Features(pairs[0], pairs[1], attention_map, attention_distance)


def attention_map(output: torch.Tensor) -> torch.Tensor:
    """(N, C, ...) to (N, places)."""
    return nn.functional.normalize(output.square().mean(1).flatten(1))


def attention_distance(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (own - theirs).square().sum(1).mean()


def _last_of_each_size(model: nn.Module, example: Inputs) -> dict[tuple[int, ...], str]:
    last: dict[tuple[int, ...], str] = {}

    def watch(name: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.dim() == 4 and output[0, 0].numel() > 1:
            last[tuple(output.shape[2:])] = name

    leaves = {name: part for name, part in model.named_modules() if not list(part.children())}
    with watching(leaves, watch), torch.no_grad():
        model(*example)
    return last
