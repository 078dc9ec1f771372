"""The networks of the calibration's programs: seeded random walks over layers and shapes.

Shapes are those that networks for edge devices have, pruned ones included: channel counts need not
be multiples of anything. A network has some tens of layers, so that few lowerings cover many
shapes, and so few multiply-accumulates that the slowest board runs it in a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import torch
from torch import nn

Shape = tuple[int, ...]
VOCABULARY = 100
Kinds = tuple[Callable[[], nn.Module], ...]
# Activations that runtimes fuse into the layer before.
FUSED: Kinds = (nn.ReLU, nn.ReLU6)


class Residual(nn.Module):
    """shortcut(x) + body(x), with an activation behind it."""

    def __init__(
        self, body: nn.Module, after: nn.Module, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body, self.after, self.shortcut = body, after, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.after(self.shortcut(x) + self.body(x))
        return result


class Branches(nn.Module):
    """The branches' outputs, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Subsampled(nn.Module):
    """Every second pixel, padded with channels of zeros (ResNet's shortcut of option A)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))


class Gate(nn.Module):
    """Channel attention: x times a function of its means (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = torch.mean(x, (2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(means))))


class Classifier(nn.Module):
    """A linear layer on the means of all pixels. ``pooled``: by a pooling layer."""

    def __init__(self, channels: int, classes: int, pooled: bool = False) -> None:
        super().__init__()
        self.head, self.pool = nn.Linear(channels, classes), nn.AdaptiveAvgPool2d(1)
        self.pooled = pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = self.pool(x).flatten(1) if self.pooled else x.mean((2, 3))
        result: torch.Tensor = self.head(means)
        return result


def conv(
    random: Random,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    kinds: Kinds = FUSED,
) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(layer, random.choice(kinds)())


def width(random: Random, low: int, high: int) -> int:
    """A number of channels, log-uniform; half of them multiples of eight, as before pruning."""
    value = round(math.exp(random.uniform(math.log(low), math.log(high))))
    return max(8, value // 8 * 8) if random.random() < 0.5 else value


def inverted(random: Random, first: int, kinds: Kinds = FUSED) -> nn.Module:
    """Inverted bottlenecks (MobileNetV2): pointwise and depthwise convolutions, additions."""
    channels = width(random, 8, 24)
    layers: list[nn.Module] = [conv(random, 3, channels, 3, 2)]
    for stage in range(4):
        outputs = width(random, first * 2**stage, first * 2 ** (stage + 1))
        for block in range(3):
            hidden = max(8, round(channels * random.uniform(1.0, 6.0)))
            kernel, stride = random.choice((3, 3, 5)), 2 if block == 0 else 1
            body = nn.Sequential(
                conv(random, channels, hidden, 1, kinds=kinds),
                conv(random, hidden, hidden, kernel, stride, hidden, kinds),
                nn.Conv2d(hidden, outputs, 1),
            )
            layers.append(Residual(body, nn.Identity()) if block else body)
            channels = outputs
    last = width(random, 200, 1280)
    return nn.Sequential(*layers, conv(random, channels, last, 1), Classifier(last, 100))


def separable(random: Random, first: int, kinds: Kinds = FUSED) -> nn.Module:
    """Depthwise and pointwise convolutions in turn (MobileNetV1)."""
    channels = width(random, 8, 32)
    layers: list[nn.Module] = [conv(random, 3, channels, 3, 2)]
    for stage in range(5):
        for block in range(3):
            outputs = width(random, first * 2**stage, first * 2 ** (stage + 1))
            stride = 2 if block == 2 else 1
            layers.append(conv(random, channels, channels, 3, stride, channels, kinds))
            layers.append(conv(random, channels, outputs, 1, kinds=kinds))
            channels = outputs
    return nn.Sequential(*layers, Classifier(channels, 1000))


def residual(random: Random, first: int, padded: bool = False) -> nn.Module:
    """Dense 3x3 convolutions in pairs, with additions (ResNet).

    ``padded``: with the shortcuts and the pooling of ResNets for CIFAR.
    """
    channels = width(random, first, 2 * first)
    layers: list[nn.Module] = [conv(random, 3, channels, 3)]
    for stage in range(3):
        if stage:
            outputs = width(random, first * 2**stage, first * 2 ** (stage + 1))
            layers.append(conv(random, channels, outputs, 3, 2))
            layers.append(nn.Conv2d(outputs, outputs, random.choice((1, 3)), padding="same"))
            if padded and outputs > channels:
                body = nn.Sequential(*layers[-2:])
                layers[-2:] = [Residual(body, nn.ReLU(), Subsampled(outputs - channels))]
            channels = outputs
        for _ in range(3):
            hidden = width(random, max(6, channels // 3), channels)
            body = nn.Sequential(
                conv(random, channels, hidden, 3), nn.Conv2d(hidden, channels, 3, padding=1)
            )
            layers.append(Residual(body, nn.ReLU()))
    return nn.Sequential(*layers, Classifier(channels, 10, padded))


def mixed(random: Random, first: int) -> nn.Module:
    """Everything else of convolutional networks: branches, pools, gates, groups, wide kernels."""
    channels = width(random, first, 2 * first)
    layers: list[nn.Module] = [
        conv(random, 3, channels, random.choice((5, 7)), 2),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage in range(3):
        size = first * 2**stage
        one, two, three = (width(random, size // 2, size) for _ in range(3))
        layers += [
            Branches(
                conv(random, channels, one, 1),
                conv(random, channels, two, 3),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(random, channels, three, 1)),
            ),
            random.choice((nn.Hardswish, nn.SiLU, nn.Sigmoid))(),
            Gate(one + two + three, max(8, (one + two + three) // 4)),
        ]
        grouped = 16 * max(1, size // 16)
        layers += [
            conv(random, one + two + three, grouped, 1),
            conv(random, grouped, grouped, 3, groups=random.choice((2, 4))),
            nn.Conv2d(grouped, size, random.choice((3, 5)), padding="same"),
            random.choice((nn.Hardswish, nn.Tanh, nn.LeakyReLU, nn.ELU))(),
            nn.ConvTranspose2d(size, size, 2, 2)
            if stage
            else nn.UpsamplingBilinear2d(scale_factor=2),
            nn.AvgPool2d(3, 2),
            nn.AvgPool2d(2),
        ]
        channels = size
    return nn.Sequential(*layers, Classifier(channels, 100))


def dense(random: Random, inputs: int, count: int, widths: tuple[int, int]) -> nn.Module:
    """Linear layers of one row. ``widths``: the narrowest and the widest."""
    layers: list[nn.Module] = []
    for _ in range(count):
        outputs = width(random, *widths)
        kind = random.choice((nn.ReLU, nn.ReLU, nn.Sigmoid, nn.Tanh))
        layers += [nn.Linear(inputs, outputs), kind()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, 10), nn.Softmax(-1))


class Attention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
        self.value, self.out = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, size = x.shape
        shape = (batch, length, self.heads, size // self.heads)
        parts = (self.query(x), self.key(x), self.value(x))
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        result: torch.Tensor = self.out(y.transpose(1, 2).reshape(batch, length, size))
        return result


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, size: int, heads: int, hidden: int, kind: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.attention = Attention(size, heads)
        self.dense = nn.Sequential(nn.Linear(size, hidden), kind(), nn.Linear(hidden, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        result: torch.Tensor = x + self.dense(self.norms[1](x))
        return result


def torch_block(size: int, heads: int, hidden: int, kind: Callable[[], nn.Module]) -> nn.Module:
    """Torch's own transformer block, post-norm."""
    return nn.TransformerEncoderLayer(size, heads, hidden, 0.0, kind(), batch_first=True)


class Transformer(nn.Module):
    """Blocks of several widths, with projections between them. ``own``: torch's own blocks."""

    def __init__(self, random: Random, own: bool = False) -> None:
        super().__init__()
        size = first = 16 * random.randint(2, 20)
        layers: list[nn.Module] = []
        for _ in range(3):
            heads = random.choice((1, 2, 4))
            hidden = round(size * random.uniform(1, 4))
            kind = random.choice((nn.GELU, nn.ReLU))
            layers.append(
                torch_block(size, heads, hidden, kind) if own else Block(size, heads, hidden, kind)
            )
            after = 16 * random.randint(3, 24)
            layers.append(nn.Linear(size, after))
            size = after
        self.words, self.blocks = nn.Embedding(VOCABULARY, first), nn.Sequential(*layers)
        self.head = nn.Linear(size, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.blocks(self.words(tokens)).mean(1))
        return result


class Recurrent(nn.Module):
    """An LSTM and a GRU, one after the other."""

    def __init__(self, random: Random, inputs: int) -> None:
        super().__init__()
        first, second = 8 * random.randint(2, 16), 8 * random.randint(2, 16)
        self.lstm = nn.LSTM(inputs, first, batch_first=True)
        self.gru = nn.GRU(first, second, batch_first=True)
        self.head = nn.Linear(second, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.gru(self.lstm(x)[0])[0][:, -1])
        return result
