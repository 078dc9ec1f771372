"""The inputs of layers as columns (im2col), and their second moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold

from edgekit.recipe.tensors import Inputs

# At most so many places of one input, evenly spread.
ROWS_PER_INPUT = 1024
# With more columns, solving takes longer than training.
MOST_COLUMNS = 2048
# Keeps weights that the data do not determine near their values.
DAMPING = 0.01
# With fewer places for each column, the solution overfits these inputs.
PLACES_PER_COLUMN = 4


def can_read(layer: nn.Module) -> bool:
    """Whether ``columns`` can give the layer's inputs, and they are at most MOST_COLUMNS."""
    if isinstance(layer, nn.Linear):
        return layer.in_features <= MOST_COLUMNS
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return False
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and layer.groups == 1 and layer.weight[0].numel() <= MOST_COLUMNS


def columns(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The inputs that each output is a sum over: (places, K), ordered like the flat weight."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    sizes: list[tuple[int, ...]] = [
        tuple(int(size) for size in pair)
        for pair in (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    ]
    inputs = _as_batch(layer, inputs)
    if isinstance(layer, nn.Conv1d):
        inputs = inputs.unsqueeze(2)
        kernel, dilation, padding, stride = sizes
        sizes = [(1, *kernel), (1, *dilation), (0, *padding), (1, *stride)]
    parts = unfold(inputs, *sizes)
    return parts.transpose(1, 2).flatten(0, 1)


def rows(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """The layer's outputs at the places of ``columns``: (places, O)."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])
    return _as_batch(layer, output).flatten(2).transpose(1, 2).flatten(0, 1)


def spread_columns(layer: nn.Module, inputs: torch.Tensor, about: int) -> torch.Tensor:
    """``spread_places`` of ``columns``; of a pointwise convolution, without copying the others."""
    if not _is_pointwise(layer) or inputs.dim() != 4:
        return spread_places(columns(layer, inputs), about)
    assert isinstance(layer, nn.Conv2d)
    down, right = layer.stride
    return _spread_pixels(inputs[:, :, ::down, ::right], about)


def spread_rows(layer: nn.Module, output: torch.Tensor, about: int) -> torch.Tensor:
    """``spread_places`` of ``rows``, without copying the others if outputs are images."""
    if isinstance(layer, nn.Linear) or output.dim() != 4:
        return spread_places(rows(layer, output), about)
    return _spread_pixels(output, about)


def _is_pointwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.padding in ((0, 0), 0)
    )


def _spread_pixels(images: torch.Tensor, about: int) -> torch.Tensor:
    """About so many pixels of (N, C, H, W), evenly spread: (places, C)."""
    count, _, height, width = images.shape
    places = spread_places(torch.arange(count * height * width), about)
    pixels = places % (height * width)
    return images[places // (height * width), :, pixels // width, pixels % width]


def _as_batch(layer: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """Add the batch axis that a convolution's input may lack."""
    unbatched = value.dim() == (2 if isinstance(layer, nn.Conv1d) else 3)
    return value.unsqueeze(0) if unbatched else value


def spread_places(places: torch.Tensor, about: int = ROWS_PER_INPUT) -> torch.Tensor:
    """About so many of the places, evenly spread."""
    return places[:: max(1, len(places) // about)]


def moments(
    model: nn.Module, names: Iterable[str], data: Sequence[Inputs]
) -> dict[str, torch.Tensor]:
    """The mean of x x' over all places of each layer, (K, K). Layers with too few places are left
    out.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: nn.Module, inputs: torch.Tensor, _output: torch.Tensor) -> None:
        places = spread_places(columns(layer, inputs))
        mean = (places.T @ places).double() / len(places) / len(data)
        sums[name] = sums[name] + mean if name in sums else mean
        counts[name] = counts.get(name, 0) + len(places)

    layers = {name: model.get_submodule(name) for name in names}
    with watching(layers, watch), torch.no_grad():
        for inputs in data:
            model(*inputs)
    return {
        name: moment
        for name, moment in sums.items()
        if has_enough_places(counts[name], len(moment))
    }


def has_enough_places(places: int, columns: int) -> bool:
    return places >= PLACES_PER_COLUMN * columns


def with_damping(moments: torch.Tensor) -> torch.Tensor:
    """Second moments with a small diagonal term, so that they can be inverted."""
    damping = DAMPING * moments.diagonal().mean() + 1e-12
    return moments + damping * torch.eye(len(moments), dtype=moments.dtype)


def run_counts(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, int]:
    """How often each layer runs, in the order in which they first run."""
    runs: dict[str, int] = {}
    layers = {name: model.get_submodule(name) for name in names}

    def watch(name: str, _layer: nn.Module, _read: torch.Tensor, _output: torch.Tensor) -> None:
        runs[name] = runs.get(name, 0) + 1

    with watching(layers, watch), torch.no_grad():
        model(*inputs)
    return runs


Watch = Callable[[str, nn.Module, torch.Tensor, torch.Tensor], None]


@contextmanager
def watching(layers: Mapping[str, nn.Module], watch: Watch) -> Iterator[None]:
    """Call ``watch(name, layer, inputs, output)`` whenever one of the layers has computed."""

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if inputs:  # inputs passed by keyword are not observed
            watch(name, layer, inputs[0], output)

    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
