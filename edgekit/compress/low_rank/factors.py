"""A layer as two or three smaller ones, by singular value decomposition (SVD).

Three forms, for layers without groups:

matrix    the layer with r outputs, and a 1x1 layer behind it (M. Jaderberg et al., 2014,
          arXiv:1405.3866; X. Zhang et al., 2015, arXiv:1505.06798); the only form of linear layers
          and of 1x1 convolutions
spatial   r columns of height k, and rows of width k behind them (arXiv:1405.3866, scheme 2)
tucker    a 1x1 layer with r outputs, the layer from r to s channels, and a 1x1 layer (Tucker-2,
          Y.-D. Kim et al., 2015, arXiv:1511.06530)

With second moments of the layer's inputs (moments.py) the error of its outputs is minimized, not
that of its weights: only for ``matrix`` exactly, the others know them in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgekit.compress.moments import with_damping
from edgekit.plan import FactorForm, Factors

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# The settings of a convolution along an axis without a kernel.
NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1}
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Places:
    """The places, of all inferences of ``example``, at which a layer reads and writes.
    ``between``: those between the columns and the rows of ``spatial``.
    """

    read: int
    between: int
    written: int


def forms_of(layer: Layer) -> tuple[FactorForm, ...]:
    kernel = layer.weight.shape[2:]
    if kernel.numel() == 1:
        return ("matrix",)
    flat = len(kernel) == 2 and min(kernel) > 1
    return ("matrix", "spatial", "tucker") if flat else ("matrix", "tucker")


def highest_ranks(layer: Layer, form: FactorForm) -> tuple[int, ...]:
    """The ranks with which the factors compute the same as the layer."""
    outputs, inputs = layer.weight.shape[:2]
    places = layer.weight[0, 0].numel()
    if form == "matrix":
        return (min(outputs, inputs * places),)
    if form == "spatial":
        height, width = layer.weight.shape[2:]
        return (min(outputs * width, inputs * height),)
    return (min(inputs, outputs * places), min(outputs, inputs * places))


def macs_of_factors(layer: Layer, factors: Factors, places: Places) -> int:
    """The multiply-accumulates of the factors."""
    outputs, inputs = layer.weight.shape[:2]
    kernel = layer.weight[0, 0].numel()
    first, last = factors.ranks[0], factors.ranks[-1]
    if factors.form == "matrix":
        return places.written * first * (inputs * kernel + outputs)
    if factors.form == "spatial":
        height, width = layer.weight.shape[2:]
        return first * (places.between * inputs * height + places.written * outputs * width)
    inner = first * kernel * last + last * outputs
    return places.read * inputs * first + places.written * inner


def factorized(layer: Layer, factors: Factors, moment: torch.Tensor | None = None) -> nn.Sequential:
    """The factors as layers, in the order in which they run. ``moment``: the mean of x x' over the
    layer's inputs as columns (``moments.moments``); None: all inputs count the same.
    """
    weights = weights_of(layer, factors, moment)
    every, none = (True,) * (layer.weight.dim() - 2), (False,) * (layer.weight.dim() - 2)
    kept = {
        "matrix": (every, none),
        "spatial": ((True, False), (False, True)),
        "tucker": (none, every, none),
    }[factors.form]
    biases = [None] * (len(weights) - 1) + [layer.bias]
    return nn.Sequential(*map(_Like(layer), weights, biases, kept))


def weights_of(layer: Layer, factors: Factors, moment: torch.Tensor | None) -> list[torch.Tensor]:
    """The weights of the factors (double), each of shape (outputs, inputs, *kernel)."""
    weight = layer.weight.detach().double()
    outputs, inputs, *kernel = weight.shape
    ones = [1] * len(kernel)
    rank = factors.ranks[-1]
    if factors.form == "matrix":
        left, right = _split(weight.flatten(1), moment, rank)
        return [right.reshape(rank, inputs, *kernel), left.reshape(outputs, rank, *ones)]
    if factors.form == "spatial":
        height, width = kernel
        matrix = weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)
        left, right = _split(matrix, _of_columns(moment, weight), rank)
        rows = left.reshape(outputs, width, rank).transpose(1, 2).unsqueeze(2)
        return [right.reshape(rank, inputs, height, 1), rows]
    first = factors.ranks[0]
    matrix = weight.flatten(2).transpose(1, 2).reshape(-1, inputs)
    left, right = _split(matrix, _of_channels(moment, weight), first)
    core = left.reshape(outputs, -1, first).transpose(1, 2).flatten(1)
    last, inner = _split(core, _projected(moment, right), rank)
    return [
        right.reshape(first, inputs, *ones),
        inner.reshape(rank, first, *kernel),
        last.reshape(outputs, rank, *ones),
    ]


def relative_error(layer: Layer, factors: Factors, moment: torch.Tensor | None = None) -> float:
    """The energy of the outputs' error relative to that of the outputs (of the weights, without
    ``moment``).
    """
    weight = layer.weight.detach().double()
    error = (weight - composed(factors, weights_of(layer, factors, moment))).flatten(1)
    flat = weight.flatten(1)
    if moment is not None:
        return float(((error @ moment) * error).sum() / ((flat @ moment) * flat).sum())
    return float(error.square().sum() / flat.square().sum())


def composed(factors: Factors, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weight of the single layer that computes the same as the factors."""
    if factors.form == "spatial":
        return torch.einsum("rih,orw->oihw", weights[0][..., 0], weights[1][:, :, 0])
    if factors.form == "matrix":
        return torch.einsum("ri...,or->oi...", weights[0], weights[1].flatten(1))
    first, inner, last = weights
    return torch.einsum("ri,sr...,os->oi...", first.flatten(1), inner, last.flatten(1))


def _split(
    matrix: torch.Tensor, moment: torch.Tensor | None, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices (P, rank) and (rank, Q), whose product is the best approximation of ``matrix``
    (P, Q) for inputs with this second moment (Q, Q).
    """
    moment = None if moment is None else with_damping(moment)
    if len(matrix) <= matrix.shape[1]:
        energy = matrix @ matrix.T if moment is None else matrix @ moment @ matrix.T
        left = _leading(energy, rank)
        return left, left.T @ matrix
    if moment is None:
        right = _leading(matrix.T @ matrix, rank)
        return matrix @ right, right.T
    root = torch.linalg.cholesky(moment)
    right = _leading(root.T @ matrix.T @ matrix @ root, rank)
    back = torch.linalg.solve_triangular(root.T, right, upper=True)
    return matrix @ root @ right, back.T


def _leading(square: torch.Tensor, count: int) -> torch.Tensor:
    """The eigenvectors of the largest eigenvalues, in columns."""
    vectors: torch.Tensor = torch.linalg.eigh(square).eigenvectors
    return vectors.flip(1)[:, :count]


def _of_channels(moment: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """The second moments of the input channels: the mean over the places of the kernel."""
    if moment is None:
        return None
    inputs, places = weight.shape[1], weight[0, 0].numel()
    parts = moment.reshape(inputs, places, inputs, places)
    return torch.einsum("ikjk->ij", parts) / places


def _of_columns(moment: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """The second moments of the kernel's columns: the mean over its width."""
    if moment is None:
        return None
    _, inputs, height, width = weight.shape
    parts = moment.reshape(2 * (inputs, height, width))
    columns = torch.einsum("ihwjgw->ihjg", parts) / width
    return columns.reshape(inputs * height, inputs * height)


def _projected(moment: torch.Tensor | None, right: torch.Tensor) -> torch.Tensor | None:
    """The second moments behind a 1x1 layer with this weight (rank, inputs)."""
    if moment is None:
        return None
    rank, inputs = right.shape
    parts = moment.reshape(inputs, -1, inputs, len(moment) // inputs)
    product = torch.einsum("ri,ikjl,sj->rksl", right, parts, right)
    return product.reshape(rank * parts.shape[1], -1)


@dataclass(frozen=True)
class _Like:
    """Builds layers with the settings of ``layer``, along the axes of the kernel that they keep."""

    layer: Layer

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kept: Sequence[bool]
    ) -> nn.Module:
        outputs, inputs, *kernel = weight.shape
        built: nn.Module
        if isinstance(self.layer, nn.Linear):
            built = nn.Linear(inputs, outputs, bias is not None)
        else:
            built = type(self.layer)(
                inputs,
                outputs,
                tuple(kernel),  # type: ignore[arg-type]
                **{name: self._along(name, kept, none) for name, none in NEUTRAL.items()},
                bias=bias is not None,
                padding_mode=self.layer.padding_mode,
            )
        learns = self.layer.weight.requires_grad
        built.weight = nn.Parameter(weight.to(self.layer.weight.dtype), learns)
        if bias is not None:
            built.bias = nn.Parameter(bias.detach().clone(), learns)
        return built

    def _along(self, name: str, kept: Sequence[bool], neutral: int) -> Any:
        value = getattr(self.layer, name)
        if isinstance(value, str):
            return value
        return tuple(own if keep else neutral for own, keep in zip(value, kept, strict=True))
