"""What the recipes of the zoo share: seeded data, and random weights that behave like trained ones.

Random weights alone give activations that vanish or explode within some ten layers, and then
int8 is judged on noise. So: He initialisation, and batch normalisation filled with the statistics
of a few forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

Inputs = tuple[torch.Tensor, ...]
Data = tuple[Callable[[], Inputs], Callable[[], Iterator[Inputs]]]

CALIBRATION_COUNT = 8
STATISTICS_BATCH = 4


def images(channels: int, height: int, width: int | None = None) -> Data:
    """``example_inputs`` and ``calibration`` of smooth random images."""
    return data(lambda generator: (smooth((1, channels, height, width or height), generator),))


def signals(channels: int, length: int) -> Data:
    """The same of smooth random signals, [1, channels, length]."""
    return data(lambda generator: (smooth((1, channels, 1, length), generator)[:, :, 0],))


def tokens(vocabulary: int, length: int) -> Data:
    """The same of random token ids, [1, length] int64."""
    return data(lambda generator: (torch.randint(0, vocabulary, (1, length), generator=generator),))


def data(make: Callable[[torch.Generator], Inputs]) -> Data:
    def example_inputs() -> Inputs:
        return make(torch.Generator().manual_seed(1))

    def calibration() -> Iterator[Inputs]:
        generator = torch.Generator().manual_seed(2)
        for _ in range(CALIBRATION_COUNT):
            yield make(generator)

    return example_inputs, calibration


def smooth(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A coarse pattern with fine noise over it, zero mean, standard deviation about 1."""
    batch, channels, height, width = shape
    coarse = torch.randn(
        batch, channels, max(1, height // 16), max(1, width // 16), generator=generator
    )
    pattern = functional.interpolate(coarse, (height, width), mode="bilinear")
    return pattern + 0.3 * torch.randn(shape, generator=generator)


def settled(
    make: Callable[[], nn.Module], inputs: Callable[[], Inputs], shift: float = 0.0
) -> nn.Module:
    """The model with seeded weights and filled batch statistics, in eval mode.

    ``shift`` is the bias of every batch normalisation. At random weights each of them makes noise
    grow, the more the more a ReLU cuts off: deep nets need a shift, else int8 is judged on noise.
    """
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over all passes
        nn.init.constant_(norm.bias, shift)
    model.train()
    with torch.no_grad():
        for _ in range(2 if norms else 0):
            repeated = [tensor.repeat_interleave(STATISTICS_BATCH, 0) for tensor in inputs()]
            model(*[tensor + 0.5 * torch.randn(tensor.shape) for tensor in repeated])
    return model.eval()


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution with "same" padding, batch normalisation, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(
        self, channels: int, hidden: int, gate: Callable[[], nn.Module] = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            gate(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.body(x)


class Residual(nn.Module):
    """x + body(x), with a projection where the shapes differ."""

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.shortcut(x) + self.body(x))


class Classifier(nn.Sequential):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int, classes: int = 1000) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
